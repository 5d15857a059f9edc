"""Bounds on replies, by hand.

And one hostile node of several in toy federations: bounded or refused, always finite.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration
from fedcmi_flwr.strategy.guards import Guards, keep_finite_state, shortened, update_norm
from fedcmi_flwr.types import ClassStats

Maker = Callable[..., Any]
BOTH = ("audio", "visual")


def adds(value: float, num_examples: int = 1, **extra: Any) -> Callable[[Message, int], Message]:
    """Return a node that adds ``value`` to every floating-point array."""

    def reply(message: Message, part: int) -> Message:
        sent = wire.read_task(message).arrays
        arrays = {
            n: (v + value).astype(v.dtype) if v.dtype.kind == "f" else v for n, v in sent.items()
        }
        return wire.train_reply(message, arrays, num_examples, **extra, applied=everything(message))

    return reply


def test_a_long_update_is_scaled_down_group_by_group(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    """Node 1 adds (30, 30) to ears and 30 to eye and head.

    At norm 3 that is (3, 3) / sqrt(2), 3 and 3.

    Node 0 adds 1 everywhere, of norm sqrt(2) and 1. Both weigh the same.
    """
    strategy = make_strategy(method=METHODS["fedavg"], guards=Guards(max_update_norm=3.0))
    nodes = federation([BOTH, BOTH], [1, 1], replies={0: adds(1.0), 1: adds(30.0)})
    found, metrics = train_round(strategy, nodes.grid())
    ear = (1 + 3 / np.sqrt(2)) / 2
    assert found["ear.w"].tolist() == pytest.approx([1 + ear, 2 + ear])
    assert (found["eye.w"].tolist(), found["head.w"].tolist()) == (
        pytest.approx([5.0]),
        pytest.approx([6.0]),
    )
    assert metrics["refused"] == 0
    named = "Reply of node 1002 (partition 1, audio+visual): the update of"
    assert strategy.report.bounded == [
        f"{named} 'audio' has the norm 42.43, above max-update-norm = 3; it is scaled down to "
        "that.",
        f"{named} 'visual' has the norm 30, above max-update-norm = 3; it is scaled down to that.",
        f"{named} 'shared' has the norm 30, above max-update-norm = 3; it is scaled down to that.",
    ]
    assert [line for line in log_lines if "norm" in line] == [
        f"round 1: {line}" for line in strategy.report.bounded
    ]


@pytest.mark.parametrize("value", [5.0, 1e30, -3e38])
def test_a_long_update_may_be_refused_instead(
    federation: Maker, make_strategy: Maker, train_round: Maker, value: float
) -> None:
    guards = Guards(max_norm_ratio=0, max_update_norm=3.0, update_norm_action="refuse")
    strategy = make_strategy(method=METHODS["fedavg"], guards=guards)
    found, metrics = train_round(
        strategy, federation([BOTH, BOTH], [1, 1], replies={1: adds(value)}).grid()
    )
    assert found["head.w"].tolist() == [5.0]
    assert metrics["refused"] == 1
    (line,) = strategy.report.refused
    assert line.startswith(
        "Reply of node 1002 (partition 1, audio+visual) refused: the update of 'audio' has the norm"
    )
    assert strategy.report.bounded == []


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.float32, 3e38, 1.0 + 2.0),  # the norm of the difference is 3e38, in double precision
        (
            np.float64,
            1e200,
            1.0,
        ),  # its square overflows: what is too long to be measured counts as no update
        (np.float64, -1.7e308, 1.0),
    ],
)
def test_huge_updates_are_shortened_without_overflow(
    dtype: type, value: float, expected: float
) -> None:
    sent, arrays = {"w": np.array([1.0], dtype)}, {"w": np.array([value], dtype)}
    norm = update_norm(arrays, sent)
    assert shortened(arrays, sent, 2.0 / norm)["w"].tolist() == [expected]


def test_a_weight_is_capped_at_a_multiple_of_the_median_and_statistics_shrink_with_it(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Weights 10, 20, 400: the median is 20, twice that 40.

    Node 2's statistics shrink to a tenth, rounded down.

    The head is 4 + (10 * 1 + 20 * 2 + 40 * 3) / 70.
    """
    stats = {
        part: ClassStats(
            {name: np.array(total) for name in BOTH},
            {name: np.array(count, dtype=np.int64) for name in BOTH},
        )
        for part, (total, count) in enumerate(
            [([1.0, 2.0], [4, 6]), ([1.0, 2.0], [4, 6]), ([30.0, 3.0], [60, 9])]
        )
    }
    strategy = make_strategy(method=CrossModalInfiltration(), guards=Guards(max_example_ratio=2.0))
    found, metrics = train_round(
        strategy, federation([BOTH] * 3, [10, 20, 400], stats=stats).grid()
    )
    assert found["head.w"].tolist() == pytest.approx([4 + 170 / 70])
    assert (metrics["num-examples"], strategy.report.examples) == (70, {0: 10, 1: 20, 2: 40})
    for name in BOTH:  # [60, 9] / 10 is [6, 0], with the same mean probability: 30 / 60 * 6 = 3
        assert strategy.report.stats.count[name].tolist() == [4 + 4 + 6, 6 + 6 + 0]
        assert strategy.report.stats.probability_sum[name].tolist() == pytest.approx(
            [1 + 1 + 3, 2 + 2]
        )
    assert strategy.report.bounded == [
        "Reply of node 1003 (partition 2, audio+visual): num-examples = 400 count as 40 "
        "(max-example-ratio)."
    ]


def test_of_two_weights_the_smaller_one_bounds_the_other(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """With the mean of both as the median, no ratio would bound an inflated one. 4 + (10 * 1 + 30 *
    2) / 40.
    """
    strategy = make_strategy(method=METHODS["fedavg"], guards=Guards(max_example_ratio=3.0))
    found, _ = train_round(strategy, federation([BOTH] * 2, [10, 10**9]).grid())
    assert found["head.w"].tolist() == pytest.approx([4 + 70 / 40])


@pytest.mark.parametrize("counts", [[1, 10], [0, 10**12], [10, 1]])
def test_more_samples_of_classes_than_in_all_are_refused(
    federation: Maker, make_strategy: Maker, train_round: Maker, counts: list[int]
) -> None:
    made_up = ClassStats(dict.fromkeys(BOTH, np.zeros(2)), dict.fromkeys(BOTH, np.array(counts)))
    strategy = make_strategy(method=CrossModalInfiltration())
    nodes = federation([BOTH, BOTH], [1, 10], stats={1: made_up})
    train_round(strategy, nodes.grid())
    (line,) = strategy.report.refused
    assert (
        f"class statistics of 'audio' are of {sum(counts)} samples, but num-examples = 10" in line
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(
    federation: Maker, make_strategy: Maker, train_round: Maker, bad: float
) -> None:
    strategy = make_strategy(method=METHODS["fedavg"])
    found, _ = train_round(
        strategy, federation([BOTH, BOTH], [1, 1], replies={1: adds(bad)}).grid()
    )
    assert found["head.w"].tolist() == [5.0]
    assert (
        "node 1002 (partition 1, audio+visual) refused: arrays: 'ear.w' holds NaN or Inf"
        in strategy.report.refused[0]
    )


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_a_step_that_would_overflow_leaves_the_group_and_its_moments(
    federation: Maker, make_strategy: Maker, train_round: Maker, name: str
) -> None:
    """After one hostile round of finite numbers the federation goes on as if that round had not
    been.

    3e38 overflows FedAvgM's step of lr 4, and the squares of Adam and Yogi, whose steps would be
    0 ever after.
    """
    nodes = federation([BOTH, BOTH], [1, 1], replies={1: adds(2.0)})
    hostile = federation([BOTH, BOTH], [1, 1], replies={part: adds(3e38) for part in (0, 1)})
    strategies = [
        make_strategy(method=METHODS["fedavg"], server_optimizer=ServerOptimizer(name, 4.0, 0.9))
        for _ in range(2)
    ]
    results = []
    for attacked, strategy in zip((True, False), strategies, strict=True):
        arrays, _ = train_round(strategy, nodes.grid(), 1)
        if attacked:
            after, _ = train_round(strategy, hostile.grid(), 2, arrays)
            assert {n: v.tolist() for n, v in after.items()} == {
                n: v.tolist() for n, v in arrays.items()
            }
            groups = ("audio", "visual", "shared")
            lines = [
                f"Group {group!r} would not be finite; it keeps its value." for group in groups
            ]
            assert strategy.report.bounded == lines
            assert strategy.report.owners == {group: [] for group in groups}
        results.append(train_round(strategy, nodes.grid(), 3, arrays)[0])
    assert {n: v.tolist() for n, v in results[0].items()} == {
        n: v.tolist() for n, v in results[1].items()
    }
    states = [
        {n: v.tolist() for n, v in strategy.state().optimizer.items()} for strategy in strategies
    ]
    assert states[0] == states[1]


def test_a_mean_that_overflows_keeps_the_groups_value(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """In double precision 1e308 * 100 samples is Inf before the division; audio alone is hit."""
    arrays = {"ear.w": np.ones(2), "eye.w": np.ones(1), "head.w": np.ones(1)}

    def reply(message: Message, part: int) -> Message:
        sent = wire.read_task(message).arrays
        return wire.train_reply(message, {**sent, "ear.w": np.full(2, 1e308)}, 100)

    strategy = make_strategy(method=METHODS["fedavg"], guards=Guards(max_norm_ratio=0))
    nodes = federation([BOTH, BOTH], [1, 1], replies={1: reply})
    found, _ = train_round(strategy, nodes.grid(), arrays=arrays)
    assert found["ear.w"].tolist() == [1.0, 1.0]
    assert found["head.w"].tolist() == pytest.approx([(2 + 100) / 101])
    assert strategy.report.bounded == ["Group 'audio' would not be finite; it keeps its value."]


def test_what_a_scaffold_node_sends_is_bounded_and_its_state_stays_finite(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Two nodes change c of the head by 3e38 each, four times.

    A sum of 6e38 / 2 owners is 3e38, the next is Inf.
    """

    def reply(message: Message, part: int) -> Message:
        sent = wire.read_task(message).arrays
        own = {"head.w": np.array([3e38], np.float32)}
        return wire.train_reply(message, sent, 1, from_method=own, applied=everything(message))

    nodes = federation([BOTH, BOTH], [1, 1], replies={0: reply, 1: reply})
    strategy = make_strategy(method=METHODS["scaffold"])
    for server_round in (1, 2, 3):
        train_round(strategy, nodes.grid(), server_round)
        assert strategy.method_state["head.w"].tolist() == pytest.approx([3e38])
    assert strategy.report.bounded == [
        "The method's 'head.w' would not be finite; it keeps its value."
    ]
    bounded = make_strategy(
        method=METHODS["scaffold"], guards=Guards(max_update_norm=2.0, update_norm_action="refuse")
    )
    train_round(bounded, nodes.grid())
    assert bounded.method_state["head.w"].tolist() == [2.0]
    assert (
        "method-arrays have the norm 3e+38, above max-update-norm = 2" in bounded.report.bounded[0]
    )


def _prototypes(total: float, count: float, num_examples: int) -> Callable[[Message, int], Message]:
    own = {
        "prototype-sum.audio": np.array([[total], [0]], np.float32),
        "prototype-count.audio": np.array([count, 0], np.float32),
    }

    def reply(message: Message, part: int) -> Message:
        arrays = wire.read_task(message).arrays
        return wire.train_reply(
            message, arrays, num_examples, from_method=own, applied=everything(message)
        )

    return reply


def test_prototypes_of_made_up_samples_are_refused_and_capped_ones_count_less(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Sums 10 over 10, 20 over 10 and 4000 over 400 that count as 20 samples.

    (10 + 20 + 200) / (10 + 10 + 20).
    """
    owned = [("audio",)] * 3
    liar = federation(
        owned,
        [1] * 3,
        replies={p: _prototypes(10.0, 11.0 if p == 2 else 10.0, 10) for p in range(3)},
    )
    strategy = make_strategy(method=METHODS["fedproto"])
    train_round(strategy, liar.grid())
    (line,) = strategy.report.refused
    assert (
        "node 1003 (partition 2, audio) refused: method-arrays: prototypes of 'audio': 11 "
        "samples, but" in line
    )
    replies = {
        0: _prototypes(10, 10, 10),
        1: _prototypes(20, 10, 10),
        2: _prototypes(4000, 400, 400),
    }
    strategy = make_strategy(method=METHODS["fedproto"], guards=Guards(max_example_ratio=2.0))
    train_round(strategy, federation(owned, [1] * 3, replies=replies).grid())
    prototypes = strategy.method_state["prototype.audio"]
    assert prototypes[0].tolist() == pytest.approx([230 / 40])
    assert np.isnan(prototypes[1]).all()  # of a class without samples there is none yet


def test_states_keep_what_was_finite() -> None:
    old = {"a": np.array([1.0, np.nan]), "b": np.array([1.0]), "c": np.array([1.0])}
    new = {
        "a": np.array([2.0, np.nan]),
        "b": np.array([np.inf]),
        "c": np.array([np.nan]),
        "d": np.array([-np.inf]),
    }
    found, lost = keep_finite_state(new, old)
    assert {name: value[0] for name, value in found.items()} == {"a": 2.0, "b": 1.0, "c": 1.0}
    assert lost == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_update_norm": -1.0}, "max-update-norm = -1.0"),
        ({"max_update_norm": float("inf")}, "max-update-norm = inf"),
        ({"update_norm_action": "ignore"}, "update-norm-action = 'ignore'"),
        ({"max_example_ratio": 0.5}, "max-example-ratio = 0.5"),
        ({"max_example_ratio": float("nan")}, "max-example-ratio = nan"),
    ],
)
def test_bounds_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Guards(**changes)
