"""Replies to train messages.

Updates read back, and every kind of malformed reply is refused by name.
"""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from messages import EXTRA, GROUPS, SENT, asked

from fedcmi_flwr import wire
from fedcmi_flwr.types import ClassStats
from fedcmi_flwr.wire.packing import WireError, pack

STATS = ClassStats({"audio": np.array([0.5, 1.5])}, {"audio": np.array([1, 2])})


def _reply(**changes: Any) -> Message:
    """Return a good reply, with parts replaced.

    Arrays, groups, layout, metrics, or without a record.
    """
    packed, layout = pack(changes.get("arrays", SENT), changes.get("groups", GROUPS))
    metrics: dict[str, Any] = {
        "num-examples": 3, "loss-sum.fused": 1.5, "loss-count.fused": 3,
        "class-probability-sum.audio": [0.5, 1.5], "class-count.audio": [1, 2],
    }  # fmt: skip
    metrics |= changes.get("metrics", {})
    records = {
        "arrays": packed,
        "layout": layout,
        "metrics": MetricRecord(
            {key: value for key, value in metrics.items() if value is not None}
        ),
    }
    content = {name: record for name, record in records.items() if name != changes.get("without")}
    return Message(RecordDict({**content, **changes.get("records", {})}), reply_to=asked())


def _read(message: Message) -> wire.NodeUpdate:
    return wire.read_train_reply(message, SENT, ["audio"], 2)


def test_a_train_reply_reads_back() -> None:
    trained = {**EXTRA, "ear.w": np.array([[4.0, 5.0]], np.float32)}
    reply = wire.train_reply(
        asked(), trained, 3, STATS, loss_sum={"fused": 1.5}, loss_count={"fused": 6}, seconds=0.25
    )
    update = _read(reply)
    assert {name: value.tolist() for name, value in update.arrays.items()} == {
        "ear.w": [[4.0, 5.0]], "ear.steps": 3, "head": [0.5],
    }  # fmt: skip
    assert (update.num_examples, update.loss_sum, update.loss_count) == (
        3,
        {"fused": 1.5},
        {"fused": 6},
    )
    # A node of somebody else's need not say it
    assert (update.seconds, _read(_reply()).seconds) == (
        0.25,
        None,
    )
    assert update.stats is not None
    assert update.stats.probability_sum["audio"].tolist() == [0.5, 1.5]
    assert update.stats.count["audio"].tolist() == [1, 2]
    assert update.stats.count["audio"].dtype == np.int64


def test_samples_with_a_modality_are_said_only_where_some_lack_it() -> None:
    reply = wire.train_reply(asked(), SENT, 3, STATS, modality_examples={"audio": 3, "visual": 2})
    assert [key for key in reply.content["metrics"] if key.startswith(wire.EXAMPLES_OF)] == [
        "num-examples.visual"
    ]
    update = _read(reply)
    assert update.modality_examples == {"visual": 2}
    assert [update.examples_of(group) for group in ("audio", "visual", "shared")] == [3, 2, 3]


def test_statistics_are_read_only_where_they_are_needed() -> None:
    assert wire.read_train_reply(_reply(), SENT, [], 2).stats is None
    with pytest.raises(WireError, match=r"class-probability-sum\.audio.*found None"):
        _read(wire.train_reply(asked(), SENT, 3))


def test_a_reply_without_an_array_that_was_sent_cannot_be_made() -> None:
    with pytest.raises(WireError, match="group 'shared': array 'head' is missing"):
        wire.train_reply(asked(), {"ear.w": SENT["ear.w"], "ear.steps": SENT["ear.steps"]}, 3)


P, N = "class-probability-sum.audio", "class-count.audio"
BAD_METRICS = [
    ("num-examples", 0, "num-examples = 0"),
    ("num-examples", -5, "num-examples = -5"),
    ("num-examples", 3.0, "num-examples = 3.0"),
    ("num-examples", [3], r"num-examples = \[3\]"),
    ("num-examples", None, "num-examples = None"),
    (
        "num-examples",
        10**13,
        r"num-examples = 10000000000000, need an integer from 1 \(to 1e\+12\)",
    ),
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
    ("num-examples.audio", 2, "statistics of 'audio' are of 3 samples, but num-examples.audio = 2"),
    (
        "num-examples.visual",
        4,
        r"num-examples.visual = 4, need an integer from 0 to num-examples = 3",
    ),
    ("num-examples.visual", -1, r"num-examples.visual = -1, need an integer"),
    ("num-examples.visual", 1.0, r"num-examples.visual = 1.0, need an integer"),
    ("num-examples.visual", [1], r"num-examples.visual must be one number, found a list"),
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
    (
        {"groups": {"audio": ("ear.w",), "shared": ("head",)}},
        r"missing \['ear.steps'\], extra \[\]",
    ),
    ({"arrays": EXTRA, "groups": {**GROUPS, "visual": ("eye",)}}, r"missing \[\], extra \['eye'\]"),
    ({"without": "arrays"}, "record 'arrays' is NoneType, need ArrayRecord"),
    ({"without": "layout"}, "arrays: missing .*'ear.w'"),
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
    sent = {
        **SENT,
        "ear.norm.running_var": np.ones(2, np.float32),
        "ear.norm.running_mean": np.ones(2, np.float32),
    }
    groups = {
        **GROUPS,
        "audio": (*GROUPS["audio"], "ear.norm.running_var", "ear.norm.running_mean"),
    }
    trained = {
        name: np.array([1.0, smallest], np.float32) if "norm" in name else value
        for name, value in sent.items()
    }
    reply = _reply(arrays=trained, groups=groups)
    if refused:
        with pytest.raises(WireError, match=r"'ear\.norm\.running_var' is a variance"):
            wire.read_train_reply(reply, sent, ["audio"], 2)
    else:
        assert wire.read_train_reply(reply, sent, ["audio"], 2).num_examples == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_methods_arrays_must_be_finite_and_say_so_under_their_own_record(value: float) -> None:
    reply = wire.train_reply(
        asked(), SENT, 3, STATS, from_method={"control": np.array([1.0, value])}
    )
    with pytest.raises(WireError, match=r"^method-arrays: 'control' holds NaN or Inf"):
        _read(reply)


def test_rounding_above_the_count_is_no_reason_to_refuse() -> None:
    assert (
        _read(_reply(metrics={"class-probability-sum.audio": [1.0 + 1e-9, 2.0]})).stats is not None
    )
