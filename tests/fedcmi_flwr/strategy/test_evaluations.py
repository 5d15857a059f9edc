"""Evaluations on nodes of a toy federation: counts are added up, nonsense is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.strategy import ModalityStrategy

BOTH = ("audio", "visual")
Maker = Callable[..., Any]


def _evaluate(strategy: ModalityStrategy, nodes: Any) -> Any:
    grid = nodes.grid()
    record = ArrayRecord(
        {"ear.w": Array(np.ones(1)), "eye.w": Array(np.ones(1)), "head.w": Array(np.ones(1))}
    )
    messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
    return messages, strategy.aggregate_evaluate(1, list(grid.send_and_receive(messages)))


def test_evaluation_adds_counts_then_divides(federation: Maker, make_strategy: Maker) -> None:
    """Fused: (1 + 0 + 3) right of (2 + 1 + 5) is 1/2, not the mean of 1/2, 0 and 3/5.

    Audio only: 2 of 8.
    """
    counts = {
        0: {
            "fused": Counts(np.array([1, 0]), np.array([2, 0])),
            "audio only": Counts(np.array([0, 0]), np.array([1, 1])),
        },
        1: {"fused": Counts(np.array([0, 0]), np.array([0, 1]))},
        2: {
            "fused": Counts(np.array([1, 2]), np.array([3, 2])),
            "audio only": Counts(np.array([2, 0]), np.array([4, 2])),
        },
    }
    nodes = federation([BOTH, ("visual",), ("audio",)], [1, 1, 1], counts=counts)
    messages, metrics = _evaluate(make_strategy(fraction_evaluate=1.0), nodes)
    assert len(messages) == 3
    assert dict(metrics) == {"accuracy.fused": 0.5, "accuracy.audio only": 0.25}


def test_what_each_node_counted_is_kept_apart(federation: Maker, make_strategy: Maker) -> None:
    counts = {part: {"fused": Counts(np.array([part, 0]), np.array([3, 1]))} for part in range(3)}
    strategy = make_strategy(fraction_evaluate=1.0)
    _evaluate(strategy, federation([BOTH, BOTH, ("audio",)], [1, 1, 1], counts=counts))
    found = strategy.report.evaluated_by
    assert {part: found[part]["fused"].accuracy for part in found} == {0: 0, 1: 0.25, 2: 0.5}
    assert strategy.report.evaluated["fused"].accuracy == 0.25


def test_nodes_evaluate_from_a_round_on(federation: Maker, make_strategy: Maker) -> None:
    """The second process of a run that has two rounds behind it: its first round is the third."""
    counts = {0: {"fused": Counts(np.array([1, 0]), np.array([3, 1]))}}
    strategy = make_strategy(fraction_evaluate=1.0, evaluate_from=3)
    assert _evaluate(strategy, federation([BOTH], [1], counts=counts))[0] == []
    strategy.resume(2, strategy.state(), nodes_remember=True)
    assert len(_evaluate(strategy, federation([BOTH], [1], counts=counts))[0]) == 1


def test_evaluation_refuses_nonsense_and_may_be_left_out(
    federation: Maker, make_strategy: Maker, log_lines: list[str]
) -> None:
    good, bad = (
        {"fused": Counts(np.array([1, 1]), np.array([2, 2]))},
        {"fused": Counts(np.array([3, 1]), np.array([2, 2]))},
    )
    nodes = federation([BOTH, BOTH], [1, 1], counts={0: good, 1: bad})
    _, metrics = _evaluate(make_strategy(fraction_evaluate=1.0), nodes)
    assert dict(metrics) == {"accuracy.fused": 0.5}
    assert any("node 1002 refused" in line and "'fused'" in line for line in log_lines)
    assert (
        _evaluate(make_strategy(fraction_evaluate=1.0), federation([BOTH], [1], counts={0: bad}))[1]
        is None
    )
    assert _evaluate(make_strategy(fraction_evaluate=0.0), nodes)[0] == []


def test_an_evaluation_that_does_not_come_is_noted(federation: Maker, make_strategy: Maker) -> None:
    counts = {part: {"fused": Counts(np.array([1, 1]), np.array([2, 2]))} for part in range(2)}
    strategy, grid = (
        make_strategy(fraction_evaluate=1.0),
        federation([BOTH, BOTH], [1, 1], counts=counts).grid(),
    )
    record = ArrayRecord({name: Array(np.ones(1)) for name in ("ear.w", "eye.w", "head.w")})
    messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
    replies = [
        reply for reply in grid.send_and_receive(messages) if reply.metadata.src_node_id != 1002
    ]
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics is not None
    assert dict(metrics) == {"accuracy.fused": 0.5}
    assert strategy.report.refused == ["No evaluation of node 1002. The round's time is over."]
    assert strategy.report.to_ask_again == {1002}
