"""summary.md: what a finished run achieved, what it took and how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedcmi_flwr.config.selection import OFF
from server_app.figures import fairness
from server_app.figures.markdown import markdown_table
from server_app.run.best import best_by_validation
from server_app.run.held_out import evaluated_on
from server_app.run.records import (
    FILES,
    LAST_ROUNDS,
    epsilon_spent,
    failed_rounds,
    final_accuracy,
    last_rounds,
    megabytes,
    percent,
)

LAST_FIGURES = {
    "accuracy": "last round",
    "macro": "macro",
    "worst_class": "worst class",
    "calibration_error": "calibration error",
}
"""Of the last round: key of its record -> column."""

Config = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]


def summary(
    records: Records, config: Config, plots: Sequence[str] = (), more: Sequence[str] = ()
) -> str:
    """Return summary.md: the result first, then what it took and how it was made.

    Parameters
    ----------
    records
        Of all rounds, round 0 first, with one trained round or more.
    config
        The resolved configuration.
    plots
        Names of the files with plots.
    more
        Lines before the list of files.

    Returns
    -------
    Markdown.
    """
    trained = [record for record in records if record["round"] > 0]
    fair = fairness.sentences(last_rounds(records), config["dataset"]["classes"])
    refused = [line for record in trained for line in record["refused"]]
    bounded = [line for record in trained for line in record["bounded"]]
    failed = failed_rounds(trained)
    lines = [
        f"# {config['method']} on {config['data']}, seed {config['seed']}, {len(trained)} rounds",
        "",
        f"Accuracy of the global model on {evaluated_on(config)}, evaluated on the server.",
        "",
        *markdown_table(*accuracy_table(records, config)),
        "",
        *_ended(trained, config),
        _cost(trained),
        f"- dominant modality in the last round: {_dominant(trained)}",
        *[f"- {line}" for line in fair],
        *_privacy(trained, config),
        *(_counted("failed rounds", failed) if failed else []),
        *_counted("replies refused or missing", refused),
        *(_counted("kept within bounds", bounded) if bounded else []),
        "",
        *more,
        f"Files: {', '.join((*FILES, *plots))}",
        "",
    ]

    return "\n".join(lines)


def accuracy_table(
    records: Records, config: Config | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a run's main table.

    Parameters
    ----------
    records
        Of all rounds, with one trained round or more.
    config
        The resolved configuration; it says by what the best round was chosen, if it was.

    Returns
    -------
    One row for each way to predict: its name, where a best round was chosen that one's accuracy,
    the mean of the last rounds, and LAST_FIGURES.
    """
    last = last_rounds(records)
    head = [
        "prediction",
        f"mean of last {min(LAST_ROUNDS, len(last))} rounds",
        *LAST_FIGURES.values(),
    ]
    rows = []
    best = (
        None if config is None else best_by_validation(records, str(config.get("keep-best", OFF)))
    )
    if best is not None:
        head.insert(1, f"best by validation (round {best['round']})")

    for name, mean in final_accuracy(records).items():
        # An earlier version wrote fewer
        figures = [last[-1].get(key, {}).get(name) for key in LAST_FIGURES]
        chosen = [] if best is None else [percent(best["accuracy"].get(name))]
        rows.append([name, *chosen, percent(mean), *map(percent, figures)])

    return head, rows


def _ended(trained: Records, config: Config) -> list[str]:
    """Return a line about the best round, where one was looked for."""
    metric = str(config.get("keep-best", OFF))
    best = best_by_validation(trained, metric)
    if best is None:
        return []

    planned = config["num-server-rounds"]
    early = (
        f"; ended after {len(trained)} of {planned} rounds (patience)"
        if len(trained) < planned
        else ""
    )

    return [
        f"- the model is that of round {best['round']}, the best by {metric} on validation "
        f"data{early}"
    ]


def _cost(trained: Records) -> str:
    seconds, (down, up) = sum(record["seconds"] for record in trained), megabytes(trained)
    return f"- training time {seconds:.1f} s, sent to nodes {down:.2f} MB, received {up:.2f} MB"


def _dominant(trained: Records) -> str:
    """Return the last round's dominant modality, for people.

    A failed round, and one without a teacher, has none.
    """
    measured = [record["measured"]["dominant"] for record in trained]
    return measured[-1] or ("none" if any(measured) else "not measured by this method")


def _privacy(trained: Records, config: Config) -> list[str]:
    if trained[-1].get("privacy") is None:
        return []

    settings = ("dp-noise-multiplier", "dp-clip-norm", "dp-statistics-clip-norm")
    noise = ", ".join(f"{key} {config[key]:g}" for key in settings)
    spent = (
        f"- differential privacy of nodes: {epsilon_spent(trained[-1])}, for replacing one node's "
        f"data ({noise})"
    )

    planned = config["num-server-rounds"]
    if len(trained) == planned:
        return [spent]

    return [
        spent,
        f"- ended after {len(trained)} of {planned} rounds: one more would exceed dp-max-epsilon",
    ]


def _counted(what: str, lines: Sequence[str]) -> list[str]:
    return [f"- {what}: {len(lines)}", *(f"  - {line}" for line in lines)]
