"""A round's record in metrics.jsonl: how it is made, and what is read from several of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedcmi_flwr.evaluation.counts import Counts, is_head, summarise
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.models.file import CARD, MODEL_FILE
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport

LAST_ROUNDS = 5
"""The main figure of a run is the mean accuracy over this many last rounds."""
FILES = ("config.json", "metrics.jsonl", "matrix.json", MODEL_FILE, CARD)
"""What a finished run leaves beside summary.md and plots."""

UNREPEATED = ("known_nodes",)
"""Keys that a written record has only where they differ from the round before: of many nodes
they are its largest part, and seldom change."""


def round_record(
    server_round: int, counts: Mapping[str, Counts], report: RoundReport | None
) -> dict[str, Any]:
    """Put a round's evaluation and training report into one record.

    ``report`` is None for round 0.
    """
    report = report or RoundReport(RoundPlan(server_round))
    return {
        "round": server_round,
        "seconds": report.seconds,
        "asking_seconds": report.asking_seconds,
        "train_seconds": {
            str(partition): seconds for partition, seconds in report.train_seconds.items()
        },
        "losses": report.losses,
        "class_statistics": {
            "probability_sum": {
                name: value.tolist() for name, value in report.stats.probability_sum.items()
            },
            "count": {name: value.tolist() for name, value in report.stats.count.items()},
        },
        "num_examples": report.num_examples,
        "examples": {str(partition): count for partition, count in report.examples.items()},
        "teacher": report.plan.used.dominant,
        "measured": _dominance_record(report.measured),
        "accuracy": summarise(counts, lambda found: found.accuracy),
        "macro": summarise(counts, lambda found: found.macro),
        "worst_class": summarise(counts, lambda found: found.worst_class),
        "calibration_error": summarise(counts, lambda found: found.calibration_error),
        "counts": _counts_record(counts),
        "evaluated_on_nodes": _counts_record(report.evaluated),
        "evaluated_by": {
            str(node): _figures(report.evaluated_by[node]) for node in sorted(report.evaluated_by)
        },
        "known_nodes": {
            str(info.partition_id): list(info.modalities) for info in report.plan.known.values()
        },
        "nodes": {
            str(info.partition_id): list(info.modalities) for info, _ in report.plan.sent.values()
        },
        "owners": report.owners,
        "refused": report.refused,
        "bounded": report.bounded,
        "failed": report.failed,
        "privacy": report.privacy,
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
    }


def without_repeats(record: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a round's record as it is written.

    What is large and as in the round before is left out.

    Parameters
    ----------
    record
        The round's.
    before
        The round before, with everything; empty where there is none.

    Returns
    -------
    The record without the keys of ``UNREPEATED`` that have not changed.
    """
    repeated = {key for key in UNREPEATED if key in before and before[key] == record.get(key)}
    return {key: value for key, value in record.items() if key not in repeated}


def with_repeats(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Reverse :func:`without_repeats`.

    Records of earlier versions, which repeat everything, stay as they are.

    Parameters
    ----------
    records
        As they were written, in order from the first one.

    Returns
    -------
    Each record with everything.
    """
    last: dict[str, Any] = {}
    whole = []
    for record in records:
        last |= {key: record[key] for key in UNREPEATED if key in record}
        own = {key: value for key, value in record.items() if key not in UNREPEATED}
        whole.append(own | last)

    return whole


def _counts_record(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {
        name: {"correct": c.correct.tolist(), "count": c.count.tolist()}
        for name, c in counts.items()
    }


def _figures(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {
        name: {
            "accuracy": found.accuracy,
            "worst_class": found.worst_class,
            "samples": int(found.count.sum()),
        }
        for name, found in counts.items()
    }


def _dominance_record(dominance: Dominance) -> dict[str, Any]:
    return {
        "dominant": dominance.dominant,
        "ratio": {name: value.tolist() for name, value in dominance.ratio.items()},
        "temperature": {name: value.tolist() for name, value in dominance.temperature.items()},
    }


def json_ready(value: Any) -> Any:  # noqa: ANN401
    """Return ``value`` with NaN and Inf as None, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None

    return value


def round_line(record: Mapping[str, Any], num_rounds: int) -> str:
    """Return the one line that is printed for a round."""
    width = len(str(num_rounds))
    losses = " ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
    shown = {name: value for name, value in record["accuracy"].items() if not is_head(name)}
    accuracy = " ".join(f"{name} {percent(value)}" for name, value in shown.items())
    down, up = megabytes([record])
    parts = [
        f"round {record['round']:>{width}}/{num_rounds}",
        f"loss {losses or '-'}",
        f"dominant {record['measured']['dominant'] or '-'}",
        f"accuracy {accuracy}",
        f"{record['seconds']:.1f} s",
        f"down {down:.2f} MB up {up:.2f} MB",
    ]
    refused = len(record["refused"])
    parts += [f"{refused} refused"] if refused else []

    return " | ".join(parts + (["FAILED"] if record["failed"] else []))


def megabytes(records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return what was sent to all nodes, and received from them, in MB (10⁶ bytes)."""
    down = sum(sum(record["bytes_down"].values()) for record in records)
    up = sum(sum(record["bytes_up"].values()) for record in records)
    return down / 1e6, up / 1e6


def last_rounds(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last rounds (at most LAST_ROUNDS, trained ones)."""
    return [record for record in records if record["round"] > 0][-LAST_ROUNDS:]


def final_accuracy(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean accuracy over the last rounds (at most LAST_ROUNDS, trained ones) of each way
    to predict.
    """
    last = [record["accuracy"] for record in last_rounds(records)]
    return {
        name: float(np.mean([_number(accuracy[name]) for accuracy in last])) for name in last[-1]
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def percent(value: float | None) -> str:
    """Return an accuracy for people; a dash where there was no sample."""
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def epsilon_spent(record: Mapping[str, Any]) -> str:
    """Return what a round's record says of privacy, for people; "none" for a run without."""
    spent = record.get("privacy")
    return (
        "none" if spent is None else f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}"
    )


def failed_rounds(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each round that failed and left the model as it was.

    The line says which one and why.
    """
    return [record["failed"] for record in trained if record.get("failed")]
