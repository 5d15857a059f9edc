"""The figures of a bench.

One line per run and prediction, and a table per setting with intervals over seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedcmi_flwr.config.selection import OFF
from fedcmi_flwr.evaluation.counts import is_head
from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.bench.comparison import OWN, Comparison, sentences, shown_predictions
from server_app.bench.experiments import Experiment
from server_app.bench.fairness import fairness_caption, fairness_cells
from server_app.bench.matrix import MATRIX, collect_matrices, matrix_table
from server_app.figures.fairness import FIGURES, figures
from server_app.figures.markdown import markdown_table
from server_app.figures.plots import Band, plot_bench
from server_app.figures.statistics import (
    MAIN,
    Floats,
    Records,
    accuracy_cell,
    best_round,
    by_seed,
    interval_text,
    mean_curve,
    over_rounds,
    seeds_of_rows,
    seeds_text,
    to_target,
)
from server_app.run.best import best_by_validation
from server_app.run.directory import read_metrics
from server_app.run.records import LAST_ROUNDS, final_accuracy, last_rounds

COLUMNS = [
    "setting",
    "method",
    "seed",
    "prediction",
    "accuracy",
    "best",
    "best_round",
    "by_validation",
    "rounds_to_target",
    "megabytes_to_target",
    "refused",
    *FIGURES,
]
"""Of results.csv; ``method`` is the row's name."""

FinishedRun = tuple[Experiment, Records]


def finished_runs(experiments: Sequence[Experiment]) -> list[FinishedRun]:
    """Return the finished experiments with the records of their rounds."""
    return [
        (experiment, read_metrics(experiment.run_dir))
        for experiment in experiments
        if experiment.finished
    ]


def choose_targets(
    runs: Sequence[FinishedRun], baseline: str, percent: float | None
) -> dict[str, float]:
    """Return the target of each setting, in [0, 1].

    Parameters
    ----------
    runs
        From :func:`finished_runs`.
    baseline
        A row.
    percent
        The target of all settings; None: the baseline's mean final fused accuracy in each.

    Returns
    -------
    Setting -> target; NaN where no run of the baseline finished.
    """
    targets = {}
    for setting in dict.fromkeys(experiment.setting for experiment, _ in runs):
        chosen = [
            records
            for experiment, records in runs
            if (experiment.setting, experiment.row) == (setting, baseline)
        ]
        finals = [final_accuracy(records)[MAIN] for records in chosen]
        own = float(np.mean(finals)) if finals else float("nan")
        targets[setting] = own if percent is None else percent / 100

    return targets


def collect(runs: Sequence[FinishedRun], targets: Mapping[str, float]) -> pd.DataFrame:
    """Return one line per run and prediction, with COLUMNS.

    ``accuracy`` is the mean over the last rounds, ``best`` the highest of any round and
    ``best_round`` the first with it, ``by_validation`` that of the round that ``keep-best``
    chose (NaN without it), all in [0, 1]. Only where the prediction is MAIN: the first round
    that reaches the target, and the megabytes sent to and received from nodes until then, NaN if
    none does; and how many replies were refused or missing. The others are ``fairness.FIGURES``
    of the last rounds, NaN where nodes evaluated nothing.

    Parameters
    ----------
    runs
        From :func:`finished_runs`.
    targets
        From :func:`choose_targets`.

    Returns
    -------
    The lines, in the order of the runs.
    """
    lines = []
    for experiment, records in runs:
        for name, accuracy in final_accuracy(records).items():
            run = (experiment.setting, experiment.row, experiment.seed)
            of_main, fair = (
                _of_main(records, name, targets[run[0]]),
                figures(last_rounds(records), name),
            )
            best = (*best_round(records, name), _by_validation(experiment, records, name))
            lines.append((*run, name, accuracy, *best, *of_main, *fair.values()))

    return pd.DataFrame(lines, columns=COLUMNS).astype({"refused": "Int64"})


def _by_validation(experiment: Experiment, records: Records, prediction: str) -> float:
    best = best_by_validation(records, str(experiment.config.get("keep-best", OFF)))
    found = None if best is None else best["accuracy"].get(prediction)
    return np.nan if found is None else float(found)


def _of_main(records: Records, prediction: str, target: float) -> tuple[float, float, int | None]:
    if prediction != MAIN:
        return np.nan, np.nan, None
    return *to_target(records, target), sum(len(record["refused"]) for record in records)


def results_table(results: pd.DataFrame, comparison: Comparison) -> str:
    """Return the bench's table in Markdown.

    Parameters
    ----------
    results
        From :func:`collect`.
    comparison
        Rows, baseline and targets.

    Returns
    -------
    An overview of all settings for each prediction; then one table per setting, each with its
    sentences.
    """
    lines = [
        f"Accuracy in % (mean of the last {LAST_ROUNDS} rounds), 95 % intervals over seeds.",
        "",
        *_overview_lines(results, comparison.rows),
        f"For each setting, in brackets: points over {comparison.baseline} with the same seeds. "
        "Best round (its accuracy and number), and rounds and MB (down and up) to the target: "
        f"{MAIN}.",
        "",
    ]
    for setting in results["setting"].unique():
        part = results[results["setting"] == setting]
        lines += _setting_lines(part, comparison, comparison.targets[setting])

    return "\n".join(lines)


def _overview_lines(results: pd.DataFrame, rows: Sequence[str]) -> Iterator[str]:
    """Yield one table per prediction: rows over settings."""
    settings = list(results["setting"].unique())
    for prediction in shown_predictions(results):
        parts = [results[results["setting"] == setting] for setting in settings]
        known = set(results.loc[results["prediction"] == prediction, "method"])
        shown = [row for row in rows if row in known]
        lines = [[row, *(_overview_cell(part, prediction, row) for part in parts)] for row in shown]
        yield from (*markdown_table([prediction, *settings], lines), "")


def _overview_cell(part: pd.DataFrame, prediction: str, row: str) -> str:
    """Return a row's accuracy in a setting, with the number of its seeds where others have more."""
    cell = accuracy_cell(by_seed(part, prediction), row, row)
    seeds = len(seeds_of_rows(part).get(row, ()))
    return (
        cell if cell == "-" or seeds == part["seed"].nunique() else f"{cell} ({seeds_text(seeds)})"
    )


def _setting_lines(part: pd.DataFrame, comparison: Comparison, target: float) -> Iterator[str]:
    predictions = shown_predictions(part)
    seeds, own = part["seed"].nunique(), seeds_of_rows(part)
    goal = (
        f"target {100 * target:.1f} %"
        if target == target
        else f"no target: no run of {comparison.baseline}"
    )
    yield f"### {part['setting'].iloc[0]} ({seeds_text(seeds)}, {goal})"
    yield ""

    shown, lines = [row for row in comparison.rows if row in own], []

    for row in shown:
        name = row if len(own[row]) == seeds else f"{row} ({seeds_text(len(own[row]))})"
        cells = [
            accuracy_cell(by_seed(part, prediction), row, comparison.baseline)
            for prediction in predictions
        ]
        lines.append([name, *cells, *_main_cells(part, row)])

    head = ["method", *predictions, *_main_head(part)]
    yield from (*markdown_table(head, lines), "")

    for sentence in sentences(part, comparison):
        yield from (sentence, "")

    names, rows = fairness_cells(part, shown, comparison.baseline)
    yield f"Fairness: {fairness_caption(comparison.baseline)}"
    yield ""
    yield from (
        *markdown_table(["method", *names], ([row, *values] for row, values in rows.items())),
        "",
    )


def _main_head(part: pd.DataFrame) -> list[str]:
    chosen = ["best by validation"] if part["by_validation"].notna().any() else []
    return [*chosen, "best round", "rounds to target", "MB to target"]


def _main_cells(part: pd.DataFrame, row: str) -> list[str]:
    own = part[(part["method"] == row) & (part["prediction"] == MAIN)]
    reached = [
        _reached_text(own[column].tolist())
        for column in ("rounds_to_target", "megabytes_to_target")
    ]
    best = f"{100 * own['best'].mean():.1f} in {own['best_round'].mean():.0f}"
    if part["by_validation"].notna().any():
        reached.insert(0, best)
        best = interval_text((100 * own["by_validation"]).dropna().tolist(), ".1f")

    return [best, *reached]


def _reached_text(values: Sequence[float]) -> str:
    reached = [value for value in values if value == value]
    if not reached:
        return "never"
    if len(reached) < len(values):
        return f"{np.mean(reached):.0f} ({len(reached)} of {len(values)})"

    return interval_text(reached, ".0f")


def write_results(
    experiments: Sequence[Experiment], baseline: str, percent: float | None, out: Path
) -> str:
    """Write results.csv, matrix.csv, comparison.json, table.md and a plot per setting below
    ``out``.

    Parameters
    ----------
    experiments
        The bench; what is not finished is left out.
    baseline
        The row that differences are taken to.
    percent
        As for :func:`choose_targets`.
    out
        The bench directory.

    Returns
    -------
    The table.

    Raises
    ------
    ValueError
        No run finished.
    """
    runs = finished_runs(experiments)
    if not runs:
        raise ValueError(f"{out}: no run finished; the logs are in {out}/*/*/seed*/log.txt.")

    targets = choose_targets(runs, baseline, percent)
    results = collect(runs, targets)
    write_atomically(out / "results.csv", results.to_csv(index=False))
    rows = list(dict.fromkeys(experiment.row for experiment in experiments))
    own = {experiment.row for experiment in experiments if experiment.config["method"] == OWN}
    comparison = Comparison(rows, baseline, targets, own)
    comparison.write(out)
    matrices = collect_matrices(experiment for experiment, _ in runs)
    write_atomically(out / MATRIX, matrices.to_csv(index=False))
    text = "\n".join([results_table(results, comparison), *matrix_table(matrices, rows)])
    write_atomically(out / "table.md", text)
    for setting in targets:
        of_setting = [run for run in runs if run[0].setting == setting]
        plot_bench(bands(of_setting), out / f"accuracy-{setting}.png")

    return text


def bands(runs: Sequence[FinishedRun]) -> dict[str, dict[str, Band]]:
    """Return what :func:`server_app.figures.plots.plot_bench` draws.

    Mean and interval over seeds in %, for each round.

    Parameters
    ----------
    runs
        Of one setting.

    Returns
    -------
    Prediction -> row -> (rounds, mean, half-width), each [rounds].
    """
    curves: dict[str, dict[str, list[Floats]]] = {}
    for experiment, records in runs:
        for name in (name for name in records[-1]["accuracy"] if not is_head(name)):
            curves.setdefault(name, {}).setdefault(experiment.row, []).append(
                100 * over_rounds(records, name)
            )

    return {
        name: {row: _band(seeds) for row, seeds in of_rows.items()}
        for name, of_rows in curves.items()
    }


def _band(seeds: Sequence[Floats]) -> Band:
    mean, half = mean_curve(seeds)
    return np.arange(len(mean)), mean, half
