"""The reply to an evaluate message.

Correct predictions and samples, per class and by confidence.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.wire.metrics import (
    NUM_EXAMPLES,
    free_metrics,
    names_below,
    numbers,
    sample_count,
    whole_numbers,
)
from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.records import record

KNOWN = (NUM_EXAMPLES, "correct.", "count.", "bin-correct.", "bin-count.", "bin-confidence.")
"""Keys that mean something here; other numbers are averaged as they are."""


def evaluate_reply(message: Message, counts: Mapping[str, Counts], num_examples: int) -> Message:
    """Answer an evaluate message (on the node).

    Parameters
    ----------
    message
        The message to answer.
    counts
        Prediction ("fused", "audio only", ...) -> what was counted of it.
    num_examples
        Samples that the node evaluated, 1 or more.

    Returns
    -------
    The reply.
    """
    metrics: dict[str, Any] = {"num-examples": num_examples}
    for name, found in counts.items():
        metrics[f"correct.{name}"] = found.correct.tolist()
        metrics[f"count.{name}"] = found.count.tolist()
        metrics[f"bin-correct.{name}"] = found.bins.correct.tolist()
        metrics[f"bin-count.{name}"] = found.bins.count.tolist()
        metrics[f"bin-confidence.{name}"] = found.bins.confidence.tolist()

    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def read_evaluate_reply(
    message: Message, num_classes: int, weight_key: str = NUM_EXAMPLES
) -> dict[str, Counts]:
    """Check and decode a reply to an evaluate message (on the server).

    Parameters
    ----------
    message
        The reply.
    num_classes
        C.
    weight_key
        Key of the number of samples.

    Returns
    -------
    Prediction -> correct predictions and samples per class and bin; empty where the node has
    numbers of its own only.

    Raises
    ------
    WireError
        Lists of another length than the number of classes or bins, or counts that cannot be of
        num-examples samples.
    """
    metrics = record(message, "metrics", MetricRecord)
    num_examples, names = sample_count(metrics, weight_key), names_below(metrics, "correct.")
    if not names and not evaluate_metrics(message, weight_key):
        raise WireError(
            f"metrics: no 'correct.<prediction>', nor a finite number, among {sorted(metrics)}."
        )

    counts: dict[str, Counts] = {}
    for name in names:
        correct = whole_numbers(metrics, f"correct.{name}", num_classes)
        count = whole_numbers(metrics, f"count.{name}", num_classes)
        counts[name] = Counts(correct, count, _bins(metrics, name))
        _check_counts(name, counts[name], num_examples)

    return counts


def evaluate_metrics(
    message: Message, weight_key: str = NUM_EXAMPLES
) -> dict[str, float | list[float]]:
    """Return a node's own numbers in its reply to an evaluate message."""
    return free_metrics(record(message, "metrics", MetricRecord), (*KNOWN, weight_key))


def evaluate_weight(message: Message, weight_key: str = NUM_EXAMPLES) -> int:
    """Return how many samples a node evaluated."""
    return sample_count(record(message, "metrics", MetricRecord), weight_key)


def _bins(metrics: MetricRecord, name: str) -> Bins:
    """Return a prediction's samples by confidence.

    A node may leave out all three lists together.
    """
    keys = [f"bin-count.{name}", f"bin-correct.{name}", f"bin-confidence.{name}"]
    if not any(key in metrics for key in keys):
        return Bins.none()

    count, correct, confidence = keys

    return Bins(
        whole_numbers(metrics, count, NUM_BINS),
        whole_numbers(metrics, correct, NUM_BINS),
        numbers(metrics, confidence, NUM_BINS),
    )


def _check_counts(name: str, found: Counts, num_examples: int) -> None:
    """Raise WireError unless a prediction's counts can be of num-examples samples."""
    bins = found.bins
    for correct, count in ((found.correct, found.count), (bins.correct, bins.count)):
        if (correct < 0).any() or (correct > count).any():
            raise WireError(
                f"metrics: counts of {name!r} are out of range: need 0 <= correct <= count."
            )

    samples, right = found.count.sum(), found.correct.sum()
    if samples > num_examples:
        raise WireError(
            f"metrics: counts of {name!r} add up to more than num-examples = {num_examples}."
        )
    if bins.count.any() and (bins.count.sum(), bins.correct.sum()) != (samples, right):
        raise WireError(
            f"metrics: counts of {name!r} are not of the same samples in classes and in bins."
        )

    # a sum of confidences lies between those of its bin's two ends, give or take rounding
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    low, high = bins.count * edges[:-1] * (1 - 1e-6), bins.count * edges[1:] * (1 + 1e-6)
    if (bins.confidence < low).any() or (bins.confidence > high).any():
        raise WireError(f"metrics: confidences of {name!r} are not those of their bins.")
