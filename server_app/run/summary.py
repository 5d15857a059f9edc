"""summary.md: what a finished run achieved, what it took and how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from server_app.figures import fairness
from server_app.run.held_out import VALIDATION_SPLIT
from server_app.run.records import (
    FILES,
    LAST_ROUNDS,
    epsilon_spent,
    failed_rounds,
    final_accuracy,
    last_rounds,
    percent,
)


def evaluated_on(config: Mapping[str, Any]) -> str:
    """Return what a run was evaluated on: the test split, or the validation part that its configuration asks for."""
    return "a validation part of the training split" if config.get("validation-share") else "the test split"


def calibrated_on(config: Mapping[str, Any]) -> str:
    """Return what a run's decisions were chosen on; empty where it had no samples for that."""
    if config["dataset"].get("splits", {}).get(VALIDATION_SPLIT):
        return f"the split {VALIDATION_SPLIT!r}"
    share = config.get("calibration-share", 0)
    return f"{share:.0%} of the training split, which no node trained on" if share else ""


def _dominant(trained: Sequence[Mapping[str, Any]]) -> str:
    """Return the last round's dominant modality, for people; a failed round, and one without a teacher, has none."""
    measured = [record["measured"]["dominant"] for record in trained]
    return measured[-1] or ("none" if any(measured) else "not measured by this method")


def _privacy_lines(trained: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    if trained[-1].get("privacy") is None:
        return []
    settings = ("dp-noise-multiplier", "dp-clip-norm", "dp-statistics-clip-norm")
    noise = ", ".join(f"{key} {config[key]:g}" for key in settings)
    planned = config["num-server-rounds"]
    spent = f"- differential privacy of nodes: {epsilon_spent(trained[-1])}, for replacing one node's data ({noise})"
    if len(trained) == planned:
        return [spent]
    return [spent, f"- ended after {len(trained)} of {planned} rounds: one more would exceed dp-max-epsilon"]


def summary(
    records: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    plots: Sequence[str] = (),
    more: Sequence[str] = (),
) -> str:
    """Return summary.md: the result first, then what it took and how it was made, and more lines."""
    trained = [record for record in records if record["round"] > 0]
    last, mean = trained[-1], final_accuracy(records)
    rows = [
        f"| {name} | {percent(mean[name])} | "
        f"{' | '.join(percent(last[key][name]) for key in ('accuracy', 'macro', 'worst_class', 'calibration_error'))} |"
        for name in mean
    ]
    down, up = (sum(sum(record[key].values()) for record in trained) / 1e6 for key in ("bytes_down", "bytes_up"))
    refused, bounded = ([line for record in trained for line in record[key]] for key in ("refused", "bounded"))
    failed = failed_rounds(trained)
    return "\n".join(
        [
            f"# {config['method']} on {config['data']}, seed {config['seed']}, {len(trained)} rounds",
            "",
            f"Accuracy of the global model on {evaluated_on(config)}, evaluated on the server.",
            "",
            f"| prediction | mean of last {min(LAST_ROUNDS, len(trained))} rounds | last round | macro | worst class "
            "| calibration error |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"- training time {sum(record['seconds'] for record in trained):.1f} s, sent to nodes {down:.2f} MB, "
            f"received {up:.2f} MB",
            f"- dominant modality in the last round: {_dominant(trained)}",
            *[f"- {line}" for line in fairness.sentences(last_rounds(records), config["dataset"]["classes"])],
            *_privacy_lines(trained, config),
            *([f"- failed rounds: {len(failed)}", *[f"  - {line}" for line in failed]] if failed else []),
            f"- replies refused or missing: {len(refused)}",
            *[f"  - {line}" for line in refused],
            *([f"- kept within bounds: {len(bounded)}", *[f"  - {line}" for line in bounded]] if bounded else []),
            "",
            *more,
            f"Files: {', '.join((*FILES, *plots))}",
            "",
        ]
    )
