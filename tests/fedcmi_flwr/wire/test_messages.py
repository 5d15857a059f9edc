"""The message codec: round trips, and every kind of malformed message refused with a reason that names the culprit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.types import ClassStats
from fedcmi_flwr.wire.packing import WireError, pack

MODALITIES = ("audio", "visual")
GROUPS = {"audio": ("ear.w", "ear.steps"), "shared": ("head",)}
SENT = {"ear.w": np.array([[1.0, 2.0]], np.float32), "ear.steps": np.array(3), "head": np.array([0.5], np.float32)}
EXTRA = {**SENT, "eye": np.array([9.0], np.float32)}
STATS = ClassStats({"audio": np.array([0.5, 1.5])}, {"audio": np.array([1, 2])})
TEMPERATURES = {"audio": torch.tensor([1.0, 0.25]), "visual": torch.tensor([0.5, 1.0])}


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    """Let messages be made outside of Flower's processes."""
    LocalGrid(ClientApp(), [], {})


def _task(dominance: Dominance = NOBODY, **config: object) -> Message:
    settings = {"server-round": 2, "gamma": 2.0, "method": "fedcmi", **config}
    return wire.task_message(7, "train", pack(EXTRA, GROUPS), settings, MODALITIES, dominance)


def _reply(**changes: Any) -> Message:  # noqa: ANN401
    """Return a good reply, with parts replaced: arrays, groups, layout, metrics, or without a record."""
    packed, layout = pack(changes.get("arrays", SENT), changes.get("groups", GROUPS))
    metrics: dict[str, Any] = {
        "num-examples": 3, "loss-sum.fused": 1.5, "loss-count.fused": 3,
        "class-probability-sum.audio": [0.5, 1.5], "class-count.audio": [1, 2],
    }  # fmt: skip
    metrics |= changes.get("metrics", {})
    records = {
        "arrays": packed,
        "layout": layout,
        "metrics": MetricRecord({key: value for key, value in metrics.items() if value is not None}),
    }
    content = {name: record for name, record in records.items() if name != changes.get("without")}
    return Message(RecordDict({**content, **changes.get("records", {})}), reply_to=_task())


def _read(message: Message) -> wire.NodeUpdate:
    return wire.read_train_reply(message, SENT, ["audio"], 2)


def test_a_task_reads_back_with_the_groups_that_were_meant() -> None:
    decided = Dominance("visual", {}, TEMPERATURES)
    message = _task(decided, epochs=3)
    task = wire.read_task(message)
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (7, "train")
    assert {name: value.tolist() for name, value in task.arrays.items()} == {
        "ear.w": [[1.0, 2.0]], "ear.steps": 3, "head": [0.5],
    }  # fmt: skip
    assert task.groups == GROUPS
    assert (task.server_round, task.modalities, task.dominance.dominant) == (2, MODALITIES, "visual")
    assert task.config == {"gamma": 2.0, "method": "fedcmi", "epochs": 3}
    assert {name: value.tolist() for name, value in task.dominance.temperature.items()} == {"audio": [1.0, 0.25]}
    assert task.state_dict["ear.steps"].dtype == torch.int64


def test_nobody_teaches_reads_back_as_none() -> None:
    assert wire.read_task(_task()).dominance.dominant is None


@pytest.mark.parametrize("key", ["modalities", "server-round", "dominant"])
def test_a_task_without_a_key_is_refused(key: str) -> None:
    message = _task()
    del message.content["config"][key]
    with pytest.raises(WireError, match=f"'{key}' is missing.*FedCMI strategy"):
        wire.read_task(message)


@pytest.mark.parametrize("record", ["arrays", "layout", "config"])
def test_a_task_without_a_record_is_refused(record: str) -> None:
    message = _task()
    del message.content[record]
    with pytest.raises(WireError, match=f"record '{record}' is NoneType"):
        wire.read_task(message)


def test_a_train_reply_reads_back() -> None:
    trained = {**EXTRA, "ear.w": np.array([[4.0, 5.0]], np.float32)}
    reply = wire.train_reply(_task(), trained, 3, STATS, {"fused": 1.5}, {"fused": 6}, seconds=0.25)
    update = _read(reply)
    assert {name: value.tolist() for name, value in update.arrays.items()} == {
        "ear.w": [[4.0, 5.0]], "ear.steps": 3, "head": [0.5],
    }  # fmt: skip
    assert (update.num_examples, update.loss_sum, update.loss_count) == (3, {"fused": 1.5}, {"fused": 6})
    assert (update.seconds, _read(_reply()).seconds) == (0.25, None)  # a node of somebody else's need not say it
    assert update.stats is not None
    assert update.stats.probability_sum["audio"].tolist() == [0.5, 1.5]
    assert update.stats.count["audio"].tolist() == [1, 2]
    assert update.stats.count["audio"].dtype == np.int64


def test_statistics_are_read_only_where_they_are_needed() -> None:
    assert wire.read_train_reply(_reply(), SENT, [], 2).stats is None
    with pytest.raises(WireError, match=r"class-probability-sum\.audio.*found None"):
        _read(wire.train_reply(_task(), SENT, 3))


def test_a_reply_without_an_array_that_was_sent_cannot_be_made() -> None:
    with pytest.raises(WireError, match="group 'shared': array 'head' is missing"):
        wire.train_reply(_task(), {"ear.w": SENT["ear.w"], "ear.steps": SENT["ear.steps"]}, 3)


P, N = "class-probability-sum.audio", "class-count.audio"
BAD_METRICS = [
    ("num-examples", 0, "num-examples = 0"),
    ("num-examples", -5, "num-examples = -5"),
    ("num-examples", 3.0, "num-examples = 3.0"),
    ("num-examples", [3], r"num-examples = \[3\]"),
    ("num-examples", None, "num-examples = None"),
    ("num-examples", 10**13, r"num-examples = 10000000000000, need an integer from 1 \(to 1e\+12\)"),
    ("num-examples", 2, "statistics of 'audio' are of 3 samples, but num-examples = 2"),
    (N, [10**13, 2], r"class-count.audio.*out of range \(1e\+12\)"),
    (P, [1e300, 1.5], "class-probability-sum.audio.*finite"),
    ("loss-sum.fused", -1e200, "the loss 'fused' has the sum -1e\\+200"),
    ("loss-count.fused", 1e300, "the loss 'fused' .* over 1e\\+300 samples"),
    ("loss-sum.a\nb", 1.0, r"'a\\nb' is no name"),
    ("loss-sum." + 101 * "x", 1.0, "xxx' is no name: need 1 to 100"),
    (N, [1, 2, 3], r"class-count.audio.*2 finite.*\[1, 2, 3\]"),
    (N, 3, "class-count.audio.*found 3"),
    (N, None, "class-count.audio.*found None"),
    (N, [-1, 2], "statistics of 'audio'.*0 <= sum <= count"),
    (N, [1e300, 2.0], "audio"),
    (N, [1.5, 2.0], "audio"),
    (P, [1.1, 1.5], "statistics of 'audio'.*sum <= count"),
    (P, [-0.1, 1.5], "statistics of 'audio'.*0 <= sum"),
    (P, [np.nan, 1.5], "class-probability-sum.audio.*finite"),
    (P, [np.inf, 1.5], "class-probability-sum.audio.*finite"),
    (P, [0.5], "class-probability-sum.audio.*2 finite"),
    ("loss-sum.fused", np.nan, "the loss .* has the sum nan"),
    ("loss-sum.fused", [1.5], "loss-sum.fused must be one number"),
    ("loss-count.fused", None, r"loss-sum.\* of \['fused'\], but loss-count.\* of \[\]"),
    ("loss-count.kd", 3, r"loss-sum.\* of \['fused'\], but loss-count.\* of \['fused', 'kd'\]"),
    ("loss-count.fused", np.nan, "loss"),
    ("loss-count.fused", np.inf, "loss"),
    ("loss-count.fused", -3, "loss"),
    ("seconds", -0.5, r"seconds = -0\.5, need a number from 0 \(to 1e\+09\)"),
    ("seconds", np.nan, "seconds = nan"),
    ("seconds", np.inf, "seconds = inf"),
    ("seconds", [0.5], r"seconds = \[0\.5\]"),
]
BAD_ARRAYS = [
    ({"ear.w": np.ones((2, 1), np.float32)}, r"'ear.w' is float32 \[2, 1\].*\[1, 2\]"),
    ({"ear.w": np.ones((1, 2))}, r"'ear.w' is float64.*expected float32"),
    ({"ear.steps": np.array(3.0)}, r"'ear.steps' is float64.*expected int64"),
    ({"ear.steps": np.array([3])}, r"'ear.steps' is int64 \[1\].*\[\]"),
    ({"head": np.array([np.nan], np.float32)}, "'head' holds NaN or Inf"),
    ({"head": np.array([-np.inf], np.float32)}, "'head' holds NaN or Inf"),
]
BAD_RECORDS = [
    ({"groups": {"audio": ("ear.w",), "shared": ("head",)}}, r"missing \['ear.steps'\], extra \[\]"),
    ({"arrays": EXTRA, "groups": {**GROUPS, "visual": ("eye",)}}, r"missing \[\], extra \['eye'\]"),
    ({"without": "arrays"}, "record 'arrays' is NoneType, need ArrayRecord"),
    ({"without": "layout"}, "record 'layout' is NoneType, need ConfigRecord"),
    ({"without": "metrics"}, "record 'metrics' is NoneType, need MetricRecord"),
    ({"records": {"metrics": ConfigRecord({})}}, "record 'metrics' is ConfigRecord"),
    ({"records": {"layout": ConfigRecord({})}}, r"arrays: unexpected \['audio/float32'"),
    ({"records": {"layout": ConfigRecord({"audio": "x"})}}, "layout of group 'audio'"),
    (
        {"records": {"arrays": ArrayRecord({"audio/float32": Array(np.zeros(9, np.float32))})}},
        r"'audio/float32' is float32 of shape \[9\].*\[2\]",
    ),
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({"metrics": {key: value}}, words) for key, value, words in BAD_METRICS),
        *(({"arrays": {**SENT, **arrays}}, words) for arrays, words in BAD_ARRAYS),
        *BAD_RECORDS,
    ],
)
def test_a_malformed_train_reply_is_refused(changes: dict[str, Any], words: str) -> None:
    _read(_reply())
    with pytest.raises(WireError, match=words):
        _read(_reply(**changes))


@pytest.mark.parametrize(("smallest", "refused"), [(0.0, False), (-1e-3, True)])
def test_a_variance_below_0_is_refused(smallest: float, refused: bool) -> None:
    """One of them would make the averaged model's outputs NaN on all nodes."""
    sent = {**SENT, "ear.norm.running_var": np.ones(2, np.float32), "ear.norm.running_mean": np.ones(2, np.float32)}
    groups = {**GROUPS, "audio": (*GROUPS["audio"], "ear.norm.running_var", "ear.norm.running_mean")}
    trained = {name: np.array([1.0, smallest], np.float32) if "norm" in name else value for name, value in sent.items()}
    reply = _reply(arrays=trained, groups=groups)
    if refused:
        with pytest.raises(WireError, match=r"'ear\.norm\.running_var' is a variance"):
            wire.read_train_reply(reply, sent, ["audio"], 2)
    else:
        assert wire.read_train_reply(reply, sent, ["audio"], 2).num_examples == 3


def test_rounding_above_the_count_is_no_reason_to_refuse() -> None:
    assert _read(_reply(metrics={"class-probability-sum.audio": [1.0 + 1e-9, 2.0]})).stats is not None


@pytest.mark.parametrize(("sent", "expected"), [(("visual", "audio"), ("audio", "visual")), (("visual",), ("visual",))])
def test_a_query_reads_back_in_the_federations_order(sent: tuple[str, ...], expected: tuple[str, ...]) -> None:
    query = wire.query_message(7, 3)
    assert (query.metadata.message_type, query.content["config"]["server-round"]) == ("query", 3)
    reply = wire.query_reply(query, wire.NodeInfo(sent, 4))
    assert wire.read_query_reply(reply, MODALITIES) == wire.NodeInfo(expected, 4)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"modalities": ["audio", "smell"], "partition-id": 0}, r"\['audio', 'smell'\].*\['audio', 'visual'\]"),
        ({"modalities": [], "partition-id": 0}, r"modalities = \[\]"),
        ({"modalities": "audio", "partition-id": 0}, "modalities = 'audio'"),
        ({"modalities": [1], "partition-id": 0}, r"modalities = \[1\]"),
        ({"partition-id": 0}, "modalities = None"),
        ({"modalities": ["audio"]}, "partition-id = None"),
        ({"modalities": ["audio"], "partition-id": -1}, "partition-id = -1"),
        ({"modalities": ["audio"], "partition-id": 1.0}, "partition-id = 1.0"),
        ({"modalities": ["audio"], "partition-id": True}, "partition-id = True"),
    ],
)
def test_a_malformed_query_reply_is_refused(node: dict[str, Any], words: str) -> None:
    reply = Message(RecordDict({"node": ConfigRecord(node)}), reply_to=wire.query_message(7, 1))
    with pytest.raises(WireError, match=words):
        wire.read_query_reply(reply, MODALITIES)


def test_a_query_reply_without_its_record_is_refused() -> None:
    reply = Message(RecordDict(), reply_to=wire.query_message(7, 1))
    with pytest.raises(WireError, match="record 'node' is NoneType"):
        wire.read_query_reply(reply, MODALITIES)


def test_an_evaluate_reply_reads_back() -> None:
    counts = {
        "fused": Counts(np.array([1, 0]), np.array([2, 0])),
        "audio only": Counts(np.array([2, 1]), np.array([2, 1])),
    }
    found = wire.read_evaluate_reply(wire.evaluate_reply(_task(), counts, 3), 2)
    assert {name: (c.correct.tolist(), c.count.tolist()) for name, c in found.items()} == {
        "fused": ([1, 0], [2, 0]), "audio only": ([2, 1], [2, 1]),
    }  # fmt: skip


def _bins(**changes: Any) -> Bins:  # noqa: ANN401
    """Return what is known of two samples of the first bin, one right, and one of the last, wrong."""
    sums = {"count": np.zeros(NUM_BINS, int), "correct": np.zeros(NUM_BINS, int), "confidence": np.zeros(NUM_BINS)}
    sums["count"][[0, -1]], sums["correct"][0], sums["confidence"][[0, -1]] = [2, 1], 1, [0.1, 0.95]
    return Bins(**{**sums, **changes})


def test_bins_of_an_evaluate_reply_read_back() -> None:
    counts = {"fused": Counts(np.array([1, 0]), np.array([2, 1]), _bins())}
    found = wire.read_evaluate_reply(wire.evaluate_reply(_task(), counts, 3), 2)["fused"]
    assert found.bins.confidence.tolist() == _bins().confidence.tolist()
    assert found.calibration_error == pytest.approx((0.9 + 0.95) / 3)
    without = {"fused": Counts(np.array([1, 0]), np.array([2, 1]))}
    assert math.isnan(wire.read_evaluate_reply(wire.evaluate_reply(_task(), without, 3), 2)["fused"].calibration_error)


def test_a_node_may_leave_bins_out_but_not_some_of_them() -> None:
    metrics = {"num-examples": 3, "correct.fused": [1, 0], "count.fused": [2, 1]}
    reply = Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=_task())
    (found,) = wire.read_evaluate_reply(reply, 2).values()
    assert (found.count.tolist(), found.bins.count.sum()) == ([2, 1], 0)
    some = Message(
        RecordDict({"metrics": MetricRecord({**metrics, "bin-count.fused": [3] * NUM_BINS})}), reply_to=_task()
    )
    with pytest.raises(WireError, match="bin-correct"):
        wire.read_evaluate_reply(some, 2)


FIRST = np.arange(NUM_BINS) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 3 * FIRST, "confidence": 0.1 * FIRST, "correct": 2 * FIRST}, "not of the same samples"),
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
        wire.read_evaluate_reply(wire.evaluate_reply(_task(), counts, 3), 2)


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
    reply = Message(RecordDict({"metrics": MetricRecord({"num-examples": 3, **metrics})}), reply_to=_task())
    with pytest.raises(WireError, match="fused"):
        wire.read_evaluate_reply(reply, 2)


def test_content_bytes_counts_arrays_and_what_describes_them() -> None:
    """Ten times 1000 more float32 values weigh 40000 bytes more, give or take the digits of the shapes."""
    sizes = []
    for length in (1000, 11000):
        arrays = {"w": np.zeros(length, np.float32)}
        sizes.append(
            wire.content_bytes(
                wire.task_message(7, "train", pack(arrays, {"g": ("w",)}), {"server-round": 1}, ("g",), NOBODY)
            )
        )
    assert sizes[0] > 4000
    assert sizes[1] - sizes[0] == pytest.approx(40000, abs=10)
