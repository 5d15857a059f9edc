"""Over 10,000 malformed replies to the strategy: each is refused with its node and a reason, and changes nothing else.

Replies begin as good ones; then records, keys, values, layouts, arrays and bytes are dropped, renamed, retyped or
broken, as far as Flower's messages can carry it. What is still good after that is accepted and must do no harm.
"""

import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedcmi_flwr import wire
from fedcmi_flwr.evaluate import Counts
from fedcmi_flwr.guards import Guards
from fedcmi_flwr.local_grid import LocalGrid
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.server_optimizers import ServerOptimizer
from fedcmi_flwr.strategy import FedCMI
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
FOREIGN = 4242
Draw = Callable[[st.SearchStrategy[Any]], Any]


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
unpickled: list[str] = []


class Explosive:
    """What notes that somebody unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what unpickling calls."""
        return unpickled.append, ("unpickled",)


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


# ---- what may be wrong

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 0.0, -0.0, 0.5, 1.5, 1e300, -1e300, 5e-324]
    ),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 3.5e38, 1e-45]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", "audio", "visual", "shared", "\n", "\x1b[2J", "../x", "a" * 500]), st.text(max_size=6)
)
METRICS = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=4).filter(lambda v: len({type(x) for x in v}) <= 1))
JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([10**20, 1e400, -1, 2.5]), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
DTYPES = ["float32", "float64", "float16", "int64", "uint8", "bool", "complex64", ">f4", "U3", "M8[s]"]


def _bytes_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", _bytes_of(np.zeros(2, np.float32)))
    return buffer.getvalue()


GOOD = _bytes_of(np.array([1.0, 2.0], np.float32))
BROKEN = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"", GOOD[:-1], GOOD[:9], GOOD + b"\0", _zip(), _zip()[:-5], b"PK\x03\x04", b"\x80\x04]\x94.",
            _bytes_of(np.array([Explosive()], dtype=object)),
            _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"),
            _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
            _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
            _header("(" * 3000), _header("__import__('os')\n"), _header(""),
        ]
    ),
)  # fmt: skip


def _array(draw: Draw) -> Array:
    """Draw an array of any kind, or bytes that are none."""
    if draw(st.booleans()):
        return Array("float32", (2,), draw(st.sampled_from(["numpy.ndarray", "", "torch"])), draw(BROKEN))
    shape = draw(st.sampled_from([(), (0,), (1,), (2,), (3,), (1, 2), (2, 0)]))
    return Array(np.zeros(shape, draw(st.sampled_from(DTYPES))))


def _spoiled(draw: Draw, array: Array) -> Array:
    """Return an array with some of its numbers replaced."""
    values = array.numpy().copy()
    if np.issubdtype(values.dtype, np.floating) and values.size:
        wrong = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0, -1.0, 1e30]))
        values.flat[draw(st.integers(0, values.size - 1))] = wrong
    elif values.size:
        values.flat[0] = draw(st.sampled_from([-1, 2**62, 2**63 - 1, -(2**63)]))
    return Array(values)


def _layout(draw: Draw, text: Any) -> Any:  # noqa: ANN401
    """Draw another layout: nonsense, or the one that was with one entry changed."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return json.dumps(draw(JSONS))
    if kind == 1:
        return draw(
            st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.binary(max_size=4), st.lists(TEXTS, max_size=2))
        )
    entries = json.loads(text) if isinstance(text, str) and text[:2] == "[[" else [["ear.w", "float32", [2]]]
    entries = [entry if isinstance(entry, list) and len(entry) == 3 else ["ear.w", "float32", [2]] for entry in entries]
    place = draw(st.integers(0, len(entries) - 1))
    if kind == 2:
        field_ = draw(st.integers(0, 2))
        choices = (
            TEXTS,
            st.sampled_from(DTYPES),
            st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**63, 0.5, "1"]), max_size=3),
        )
        entries[place][field_] = draw(choices[field_])
        return json.dumps(entries)
    return json.dumps(draw(st.sampled_from([entries[:place], entries + entries[place:], entries[::-1], "[" * 3000])))


def _value(draw: Draw, record: Any, key: str) -> Any:  # noqa: ANN401
    if isinstance(record, MetricRecord):
        return draw(METRICS)
    if isinstance(record, ConfigRecord):
        return _layout(draw, record.get(key))
    old = record.get(key)
    try:
        return _spoiled(draw, old) if old is not None and draw(st.booleans()) else _array(draw)
    except Exception:  # an array that an earlier step has broken
        return _array(draw)


def _break(draw: Draw, content: RecordDict) -> None:
    """Break one thing of a reply's content."""
    names = sorted(content)
    if not names:
        return
    name = draw(st.sampled_from(names))
    record: Any = content[name]
    keys = sorted(record)
    what = draw(st.sampled_from(["value"] * 8 + ["new", "drop key", "rename key", "twice", "drop", "rename", "retype"]))
    if what in ("drop", "rename", "retype"):
        del content[name]
        if what == "rename":
            content[draw(TEXTS)] = record
        elif what == "retype":
            content[name] = draw(st.sampled_from([ArrayRecord, ConfigRecord, MetricRecord]))()
    else:
        _break_key(draw, record, keys, what)


def _break_key(draw: Draw, record: Any, keys: list[str], what: str) -> None:  # noqa: ANN401
    """Break one key of a record."""
    if what == "new":
        key = draw(
            st.one_of(TEXTS, st.sampled_from(["loss-sum.", "loss-sum.x", "class-count.audio", "correct.x", "count.x"]))
        )
        record[key] = _value(draw, record, key)
    elif keys:
        key = draw(st.sampled_from(keys))
        if what == "value":
            record[key] = _value(draw, record, key)
        elif what == "twice":
            record[draw(TEXTS)] = record[key]
        else:
            value = record.pop(key)
            if what == "rename key":
                record[draw(TEXTS)] = value


def _error(draw: Draw) -> Error:
    code = draw(st.sampled_from([-1, 0, 1, 2, 3, 5, 8, 999, 2**31 - 1]))
    reasons = st.sampled_from(
        ["", " \n ", None, "a\nb", "\x1b[31m", "x" * 5000, "<class 'ray.exceptions.ActorDiedError'>"]
    )
    return Error(code, draw(st.one_of(reasons, st.text(max_size=8))))


def _copied(content: RecordDict) -> RecordDict:
    return RecordDict({name: record.copy() for name, record in content.items()})


def _hostile_replies(draw: Draw, asked: Message, good: RecordDict) -> list[Message]:
    """Draw what a hostile node answers: mostly one reply that is broken in one to three places."""
    how = draw(st.sampled_from(["broken"] * 12 + ["error", "foreign", "twice", "silent"]))
    if how == "silent":
        return []
    if how == "error":
        return [Message(_error(draw), reply_to=asked)]
    content = _copied(good)
    if how != "foreign":
        for _ in range(draw(st.integers(1, 3))):
            _break(draw, content)
    sender = wire.query_message(FOREIGN, 1) if how == "foreign" else asked
    sender.metadata.__dict__["_message_id"] = "1"
    reply = Message(content, reply_to=sender)
    return [reply, reply] if how == "twice" else [reply]


# ---- replies to train messages


def _strategy(method: str, defended: bool = False) -> FedCMI:
    """Return a strategy that knows the nodes; ``defended``: with every bound and a server optimiser."""
    options: dict[str, Any] = {"min_available_nodes": 1, "min_train_nodes": 1, "fraction_evaluate": 1.0}
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
            replies += _hostile_replies(draw, self.asked[node], self.good[node].content)
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
    counts = {
        "fused": Counts(np.array([1, 2]), np.array([3, 2])),
        "audio only": Counts(np.array([0, 1]), np.array([1, 1])),
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
            replies += [good] if node in HONEST else _hostile_replies(data.draw, message, good.content)
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
        assert all(found.count.min() >= 0 for found in strategy.report.evaluated.values())
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
                answers.append(Message(_error(draw), reply_to=asked))
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
