"""Thousands of malformed replies to train messages.

Each is refused by name with a reason, and changes nothing else.

Replies begin as good ones; then records, keys, values, layouts, arrays and bytes are dropped,
renamed, retyped or broken, as far as Flower's messages can carry it. What is still good after
that is accepted and must do no harm.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from fuzzing import ARRAYS, HONEST, HOSTILE, LINES, NODES, Connected, fuzzed, strategy_of
from hypothesis import given
from hypothesis import strategies as st
from malformed import TRAPPED, Draw, hostile_replies, unpickled
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.strategy import FedCMI
from fedcmi_flwr.types import ClassStats

pytestmark = pytest.mark.usefixtures("quiet_log")


def test_a_trap_that_is_unpickled_says_so() -> None:
    """Otherwise the fixture above would find nothing."""
    np.load(io.BytesIO(TRAPPED), allow_pickle=True)
    assert unpickled == ["unpickled"]
    unpickled.clear()


def _good_reply(message: Message, method: str) -> Message:
    task, info = wire.read_task(message), NODES[message.metadata.dst_node_id]
    part = info.partition_id
    arrays = {
        name: value + np.asarray(part + 1).astype(value.dtype)
        for name, value in task.arrays.items()
    }
    stats = ClassStats(
        {name: np.array([0.25 * (part + 1), 0.5]) for name in info.modalities},
        {name: np.array([part + 1, 1]) for name in info.modalities},
    )
    own: dict[str, np.ndarray] = {}
    if method == "scaffold":
        own = {
            name: np.full_like(value, part + 0.5)
            for name, value in task.arrays.items()
            if name != "ear.steps"
        }
    if method == "fedproto":
        for name in info.modalities:
            own[f"prototype-sum.{name}"] = np.array([[part, 1, 2], [0, 0, 0]], np.float32)
            own[f"prototype-count.{name}"] = np.array([2, 0], np.float32)
    loss: dict[str, Any] = {"loss_sum": {"fused": 1.0 + part}, "loss_count": {"fused": 5 + part}}
    return wire.train_reply(
        message, arrays, 5 + part, stats, **loss, from_method=own, applied=everything(message)
    )


@dataclass(frozen=True)
class Outcome:
    """What a round left."""

    arrays: dict[str, bytes]
    state: dict[str, bytes]
    dominance: tuple[Any, ...]
    owners: dict[str, list[int]]
    losses: dict[str, float]


def _outcome(strategy: FedCMI, arrays: ArrayRecord) -> Outcome:
    decided = strategy.dominance
    assert all(np.isfinite(array.numpy()).all() for array in arrays.values())
    assert not any(np.isinf(array).any() for array in strategy.method_state.values())
    assert all(((t > 0) & (t <= 1)).all() for t in decided.temperature.values())
    return Outcome(
        {name: array.numpy().tobytes() for name, array in arrays.items()},
        {name: np.asarray(array).tobytes() for name, array in strategy.method_state.items()},
        (decided.dominant, {name: value.tolist() for name, value in decided.temperature.items()}),
        strategy.report.owners,
        strategy.report.losses,
    )


def _check_refusals(refused: list[str], nodes: set[int]) -> None:
    """Every node that was refused is named, with a reason, in one line of the report and of the
    log.
    """
    for node in nodes:
        (line,) = [line for line in refused if f"node {node} " in line][:1]
        assert len(line.partition(f"node {node} ")[2]) > 10
        assert line.isprintable()
    assert len([line for line in LINES.found if line.partition(": ")[2] in refused]) == len(refused)


class Rounds:
    """Rounds of one method: the good replies, and what comes of them without the hostile nodes."""

    def __init__(self, method: str, defended: bool) -> None:
        self.method, self.defended = method, defended
        self.grid = Connected()
        self.refused = 0
        self.record = ArrayRecord({name: Array(value) for name, value in ARRAYS.items()})
        strategy, self.asked = self.begin()
        self.good = {node: _good_reply(message, method) for node, message in self.asked.items()}
        arrays, _ = strategy.aggregate_train(1, [self.good[node] for node in HONEST])
        assert arrays is not None
        self.expected = _outcome(strategy, arrays)

    def begin(self) -> tuple[FedCMI, dict[int, Message]]:
        """Return a strategy that has sent its messages, and these by node."""
        strategy = strategy_of(self.method, self.defended)
        messages = list(strategy.configure_train(1, self.record, ConfigRecord({}), self.grid))
        for message in messages:
            message.metadata.__dict__["_message_id"] = "1"
        return strategy, {message.metadata.dst_node_id: message for message in messages}

    def check(self, draw: Draw) -> None:
        """Draw the hostile nodes' replies and check what the round makes of them."""
        strategy, _ = self.begin()
        replies = [self.good[node] for node in HONEST]
        for node in HOSTILE:
            replies += hostile_replies(draw, self.asked[node], self.good[node].content)
        LINES.found.clear()
        arrays, metrics = strategy.aggregate_train(1, draw(st.permutations(replies)))
        assert arrays is not None
        assert metrics is not None
        found, report = _outcome(strategy, arrays), strategy.report
        refused = {
            node for node, info in HOSTILE.items() if info.partition_id not in report.examples
        }
        _check_refusals(report.refused, refused)
        assert {info.partition_id for info in HONEST.values()} <= set(report.examples)
        if len(refused) == len(HOSTILE):
            assert found == self.expected
        self.refused += len(refused)


@pytest.mark.parametrize(
    ("method", "examples", "defended"),
    [("fedcmi", 1000, False), ("scaffold", 700, False), ("fedproto", 700, False), ("fedcmi", 200, True),
     ("scaffold", 200, True)],
)  # fmt: skip
def test_train_replies(method: str, examples: int, defended: bool) -> None:
    rounds = Rounds(method, defended)

    @fuzzed(examples)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        rounds.check(data.draw)

    check()
    assert rounds.refused >= 2.5 * examples  # of three replies in each
