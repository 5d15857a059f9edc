"""Replies to evaluate messages: counts read back, and counts that cannot be are refused by name."""

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from messages import asked

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.wire.packing import WireError


def test_an_evaluate_reply_reads_back() -> None:
    counts = {
        "fused": Counts(np.array([1, 0]), np.array([2, 0])),
        "audio only": Counts(np.array([2, 1]), np.array([2, 1])),
    }
    found = wire.read_evaluate_reply(wire.evaluate_reply(asked(), counts, 3), 2)
    assert {name: (c.correct.tolist(), c.count.tolist()) for name, c in found.items()} == {
        "fused": ([1, 0], [2, 0]), "audio only": ([2, 1], [2, 1]),
    }  # fmt: skip


def _bins(**changes: Any) -> Bins:
    """Return what is known of two samples of the first bin, one right, and one of the last,
    wrong.
    """
    sums = {
        "count": np.zeros(NUM_BINS, int),
        "correct": np.zeros(NUM_BINS, int),
        "confidence": np.zeros(NUM_BINS),
    }
    sums["count"][[0, -1]], sums["correct"][0], sums["confidence"][[0, -1]] = [2, 1], 1, [0.1, 0.95]
    return Bins(**{**sums, **changes})


def test_bins_of_an_evaluate_reply_read_back() -> None:
    counts = {"fused": Counts(np.array([1, 0]), np.array([2, 1]), _bins())}
    found = wire.read_evaluate_reply(wire.evaluate_reply(asked(), counts, 3), 2)["fused"]
    assert found.bins.confidence.tolist() == _bins().confidence.tolist()
    assert found.calibration_error == pytest.approx((0.9 + 0.95) / 3)
    without = {"fused": Counts(np.array([1, 0]), np.array([2, 1]))}
    assert math.isnan(
        wire.read_evaluate_reply(wire.evaluate_reply(asked(), without, 3), 2)[
            "fused"
        ].calibration_error
    )


def test_a_node_may_leave_bins_out_but_not_some_of_them() -> None:
    metrics = {"num-examples": 3, "correct.fused": [1, 0], "count.fused": [2, 1]}
    reply = Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=asked())
    (found,) = wire.read_evaluate_reply(reply, 2).values()
    assert (found.count.tolist(), found.bins.count.sum()) == ([2, 1], 0)
    some = Message(
        RecordDict({"metrics": MetricRecord({**metrics, "bin-count.fused": [3] * NUM_BINS})}),
        reply_to=asked(),
    )
    with pytest.raises(WireError, match="bin-correct"):
        wire.read_evaluate_reply(some, 2)


FIRST = np.arange(NUM_BINS) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"count": 3 * FIRST, "confidence": 0.1 * FIRST, "correct": 2 * FIRST},
            "not of the same samples",
        ),
        ({"count": 2 * FIRST, "confidence": 0.1 * FIRST}, "not of the same samples"),
        ({"correct": 3 * FIRST}, "out of range"),
        ({"correct": -1 * FIRST}, "out of range"),
        ({"confidence": _bins().confidence * 2}, "not those of their bins"),
        ({"confidence": _bins().confidence * np.nan}, "must be 15 finite numbers"),
        ({"confidence": np.zeros(NUM_BINS)}, "not those of their bins"),
        ({"confidence": np.zeros(2)}, "must be 15 finite numbers"),
        ({"count": np.zeros(2, int)}, "must be 15 finite whole numbers"),
    ],
    ids=range(9),
)
def test_bins_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    counts = {"fused": Counts(np.array([1, 0]), np.array([2, 1]), _bins(**changes))}
    with pytest.raises(WireError, match=f"fused.*{words}"):
        wire.read_evaluate_reply(wire.evaluate_reply(asked(), counts, 3), 2)


@pytest.mark.parametrize(
    "metrics",
    [
        {"correct.fused": [3, 0], "count.fused": [2, 1]},
        {"correct.fused": [-1, 0], "count.fused": [2, 1]},
        {"correct.fused": [1, 0, 0], "count.fused": [2, 1, 0]},
        {"correct.fused": [1, 0]},
        {"correct.fused": 1, "count.fused": 2},
        {"correct.fused": [np.nan, 0.0], "count.fused": [1.0, 1.0]},
        {"correct.fused": [1, 0], "count.fused": [3, 1]},
    ],
)
def test_a_malformed_evaluate_reply_is_refused(metrics: dict[str, Any]) -> None:
    reply = Message(
        RecordDict({"metrics": MetricRecord({"num-examples": 3, **metrics})}), reply_to=asked()
    )
    with pytest.raises(WireError, match="fused"):
        wire.read_evaluate_reply(reply, 2)
