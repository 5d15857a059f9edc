"""Over 10,000 malformed replies to the strategy: each is refused with its node and a reason, and changes nothing else.

Replies begin as good ones; then records, keys, values, layouts, arrays and bytes are dropped, renamed, retyped or
broken, as far as Flower's messages can carry it. What is still good after that is accepted and must do no harm.
"""

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import FOREIGN, NUMBERS, TEXTS, TRAPPED, Draw, broken_error, hostile_replies, unpickled

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import FedCMI
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.types import ClassStats

GROUPS = {"audio": ["ear."], "visual": ["eye."]}
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "ear.steps": np.array(5),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([[4.0, -1.0]], np.float32),
}
BOTH = ("audio", "visual")
HONEST = {1001: wire.NodeInfo(BOTH, 0), 1002: wire.NodeInfo(("audio",), 1)}
HOSTILE = {1003: wire.NodeInfo(BOTH, 2), 1004: wire.NodeInfo(("visual",), 3), 1005: wire.NodeInfo(BOTH, 4)}
NODES = HONEST | HOSTILE


def fuzzed(examples: int) -> Callable[..., Any]:
    """Return settings for so many examples, the same ones on every machine; each holds a reply per hostile node."""
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


@dataclass
class Lines(logging.Handler):
    """What "flwr.fedcmi" logs as warnings."""

    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the handler."""
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        """Return what logging keeps handlers by."""
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.found.append(record.getMessage())


LINES = Lines()


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Let messages be made outside of Flower's processes, and keep thousands of warnings out of the output."""
    LocalGrid(ClientApp(), [], {})
    logger, above = logging.getLogger("flwr.fedcmi"), logging.getLogger("flwr")
    level, logger.propagate = above.level, False
    above.setLevel(logging.CRITICAL)
    logger.setLevel(logging.WARNING)
    logger.addHandler(LINES)
    yield
    logger.removeHandler(LINES)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    above.setLevel(level)
    assert not unpickled


def test_a_trap_that_is_unpickled_says_so() -> None:
    """Otherwise the fixture above would find nothing."""
    np.load(io.BytesIO(TRAPPED), allow_pickle=True)
    assert unpickled == ["unpickled"]
    unpickled.clear()


# ---- replies to train messages


def _strategy(method: str, defended: bool = False) -> FedCMI:
    """Return a strategy that knows the nodes; ``defended``: with every bound and a server optimiser."""
    options: dict[str, Any] = {"sampling": Sampling(min_available_nodes=1, min_train_nodes=1, fraction_evaluate=1.0)}
    if defended:
        options["guards"] = Guards(max_update_norm=1.0, max_example_ratio=2.0)
        options["server_optimizer"] = ServerOptimizer("fedadam", 0.01, 0.9)
    strategy = FedCMI(GROUPS, 2, METHODS[method], **options)
    strategy.nodes.known = dict(NODES)
    return strategy


class Connected(LocalGrid):
    """The nodes; they answer queries with what they are given."""

    answers: list[Message]

    def __init__(self) -> None:
        super().__init__(ClientApp(), [{} for _ in NODES], {})

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:  # noqa: ANN401
        """Return the answers."""
        return self.answers


def _good_reply(message: Message, method: str) -> Message:
    task, info = wire.read_task(message), NODES[message.metadata.dst_node_id]
    part = info.partition_id
    arrays = {name: value + np.asarray(part + 1).astype(value.dtype) for name, value in task.arrays.items()}
    stats = ClassStats(
        {name: np.array([0.25 * (part + 1), 0.5]) for name in info.modalities},
        {name: np.array([part + 1, 1]) for name in info.modalities},
    )
    own: dict[str, np.ndarray] = {}
    if method == "scaffold":
        own = {name: np.full_like(value, part + 0.5) for name, value in task.arrays.items() if name != "ear.steps"}
    if method == "fedproto":
        for name in info.modalities:
            own[f"prototype-sum.{name}"] = np.array([[part, 1, 2], [0, 0, 0]], np.float32)
            own[f"prototype-count.{name}"] = np.array([2, 0], np.float32)
    return wire.train_reply(message, arrays, 5 + part, stats, {"fused": 1.0 + part}, {"fused": 5 + part}, own)


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
    """Every node that was refused is named, with a reason, in one line of the report and of the log."""
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
        strategy = _strategy(self.method, self.defended)
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
        refused = {node for node, info in HOSTILE.items() if info.partition_id not in report.examples}
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


# ---- replies to evaluate messages


def test_evaluate_replies() -> None:
    grid, total = Connected(), 0
    record = ArrayRecord({name: Array(value) for name, value in ARRAYS.items()})
    last = (np.arange(NUM_BINS) == NUM_BINS - 1).astype(int)
    counts = {
        "fused": Counts(np.array([1, 2]), np.array([3, 2]), Bins(5 * last, 3 * last, 4.75 * last)),
        "audio only": Counts(np.array([0, 1]), np.array([1, 1]), Bins(2 * last, 1 * last, 1.9 * last)),
    }

    @fuzzed(800)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal total
        strategy = _strategy("fedcmi")
        messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
        replies: list[Message] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = "1"
            good, node = wire.evaluate_reply(message, counts, 5), message.metadata.dst_node_id
            replies += [good] if node in HONEST else hostile_replies(data.draw, message, good.content)
        LINES.found.clear()
        metrics = strategy.aggregate_evaluate(1, data.draw(st.permutations(replies)))
        assert metrics is not None
        refused = strategy.report.refused
        assert [line.partition(": ")[2] for line in LINES.found] == refused
        assert all(line.isprintable() and "node " in line and len(line) > 30 for line in refused)
        missing = [line for line in refused if line.startswith("No evaluation of ")]
        assert len(missing) == len(set(NODES) - {reply.metadata.src_node_id for reply in replies})
        came = len(refused) - len(missing)
        assert came + 2 <= len(replies)
        if came == len(replies) - len(HONEST):  # "fused": 3 of 5 on each honest node
            assert dict(metrics) == {"accuracy.fused": 0.6, "accuracy.audio only": 0.5}
        for found in strategy.report.evaluated.values():
            assert found.count.min() >= 0
            assert 0 <= found.calibration_error <= 1 or not found.bins.count.any()
        by = strategy.report.evaluated_by
        assert set(by) <= {info.partition_id for info in NODES.values()}
        assert all(by[NODES[node].partition_id]["fused"].correct.sum() == 3 for node in HONEST)
        total += len(refused)

    check()
    assert total >= 2 * 800


# ---- replies to queries

QUERY_VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    NUMBERS,
    st.binary(max_size=3),
    st.lists(TEXTS, max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
)


def _query_content(draw: Draw, info: wire.NodeInfo) -> RecordDict:
    """Draw an answer to a query: a good one with a thing or two broken."""
    node = ConfigRecord({"modalities": list(info.modalities), "partition-id": info.partition_id})
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(["modalities", "partition-id", "x"]))
        how = draw(st.sampled_from(["value", "value", "drop", "taken"]))
        if how == "value":
            node[key] = draw(QUERY_VALUES)
        elif how == "drop":
            node.pop(key, None)
        else:
            node["partition-id"] = 0
    name = draw(st.sampled_from(["node"] * 8 + ["", "nodes"]))
    record = draw(st.sampled_from([node] * 8 + [MetricRecord({}), ArrayRecord({})]))
    return RecordDict({name: record})


def test_query_replies() -> None:
    grid, total = Connected(), 0

    @fuzzed(800)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal total
        draw, strategy, answers = data.draw, _strategy("fedcmi"), []
        strategy.nodes.known = {}
        for node, info in NODES.items():
            asked = wire.query_message(node, 1)
            asked.metadata.__dict__["_message_id"] = "1"
            good = wire.query_reply(asked, info)
            if node in HONEST:
                answers.append(good)
                continue
            how = draw(st.sampled_from(["broken"] * 12 + ["error", "foreign", "twice", "silent"]))
            if how == "error":
                answers.append(Message(broken_error(draw), reply_to=asked))
            elif how == "foreign":
                other = wire.query_message(FOREIGN, 1)
                other.metadata.__dict__["_message_id"] = "1"
                answers.append(wire.query_reply(other, info))
            elif how != "silent":
                broken = Message(_query_content(draw, info), reply_to=asked)
                answers += [broken, broken] if how == "twice" else [broken]
        grid.answers = answers  # a partition that two claim is the first one's: the honest nodes answer first
        LINES.found.clear()
        chosen = strategy.nodes.sample(grid, 1, 1.0, 1, "train")
        known = strategy.nodes.known
        assert {node: known[node] for node in HONEST} == HONEST
        assert set(chosen) == set(known) <= set(NODES)
        assert len({info.partition_id for info in known.values()}) == len(known)
        assert set(strategy.nodes.unusable) == set(NODES) - set(known)
        for node, found in strategy.nodes.unusable.items():
            assert len(found.reason) > 8
            assert found.reason.isprintable()
            assert any(f"node {node} cannot be used: {found.reason}" in line for line in LINES.found)
        total += len(strategy.nodes.unusable)

    check()
    assert total >= 2 * 800
