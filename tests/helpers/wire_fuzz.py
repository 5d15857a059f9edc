"""A process that lets hostile devices send thousands of crafted replies to a strategy, under a
limit of memory.

``python wire_fuzz.py SEED RECORDS MEGABYTES`` prints what came of them as JSON. Replies go through
Flower's grid for deployments and ``ArrivalGrid``, in pieces, to queries, training and evaluation:
half of them have records that are wrong, half have pieces that are.
"""

import json
import logging
import os
import resource
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from flwr.clientapp import ClientApp
from fuzzing import ARRAYS, GROUPS, LINES
from malformed import DTYPES, unpickled
from messages import everything
from pieces import BAD_ARRAYS, Line, Pieces, spoil

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.machine.node_names import VARIABLE, write_names
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import FedCMI
from fedcmi_flwr.strategy.arrivals import ArrivalGrid
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.types import ClassStats

HONEST, HOSTILE = range(1001, 1004), range(1004, 1024)
BOTH = ("audio", "visual")
NODES = {node: wire.NodeInfo(BOTH, place) for place, node in enumerate([*HONEST, *HOSTILE])}
PHASES = ("query", "train", "evaluate")
NUMBERS = [
    0,
    -1,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e300,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
]
TEXTS = ["", "audio", "shared", "\n", "\x1b[2J", "../x", "a" * 500]
LAYOUTS = [
    "", "null", "[[]]", "[" * 10_000, json.dumps([["ear.w", "float32", []]] * 40), "1" * 10_000,
    json.dumps([["ear.w", "float32", [2**62, 2**62]], ["ear.w", "float32", [0]]]),
    json.dumps([["ear.w", "float32", [1] * 60 + [2]], ["ear.steps", "int64", []]]),
    json.dumps([["ear.w", "float32", [-2]]]),
    json.dumps([["ear.w", "float32", [1]], ["ear.w", "float32", [1]]]),
]  # fmt: skip
LARGE = [
    "x" * 300_000,
    "[" * 100_000,
    json.dumps([["ear.w", "float32", []]] * 40_000),
    "[" + "[]," * 340_000 + "[]]",
]
"""Texts near the limit of what is read."""


def good_reply(asked: Message) -> Message:
    """Return what an honest device answers."""
    info = NODES[asked.metadata.dst_node_id]
    if asked.metadata.message_type == "query":
        return wire.query_reply(asked, info)
    task = wire.read_task(asked)
    if asked.metadata.message_type == "evaluate":
        return wire.evaluate_reply(asked, {"fused": Counts(np.array([1, 2]), np.array([3, 2]))}, 5)
    arrays = {
        name: value + np.asarray(1).astype(value.dtype) for name, value in task.arrays.items()
    }
    stats = ClassStats(
        dict.fromkeys(BOTH, np.array([0.25, 0.5])), dict.fromkeys(BOTH, np.array([1, 1]))
    )
    own = {
        name: np.full_like(value, 0.5) for name, value in task.arrays.items() if name != "ear.steps"
    }
    sent = own if task.config["method"] == "scaffold" else {}
    return wire.train_reply(asked, arrays, 5, stats, from_method=sent, applied=everything(asked))


def craft(random: Random, asked: Message) -> Pieces:
    """Return what a hostile device answers."""
    good = good_reply(asked)
    if random.random() < 0.02:
        reason = random.choice(["", "\n", "\x1b[31m", "x" * 200_000, "ray.exceptions"])
        return Pieces.of(Message(Error(random.choice([0, 2, 8, 999]), reason), reply_to=asked))
    records = random.random() < 0.5
    for _ in range(random.choice([1, 1, 2, 3]) if records else 0):
        break_record(random, good.content)
    pieces = Pieces.of(good)
    if not records:
        spoil(random, pieces)
    return pieces


def break_record(random: Random, content: Any) -> None:
    """Break one thing of a reply's content."""
    name = random.choice(sorted(content) or [""])
    how = random.choice(["value"] * 8 + ["more", "drop", "rename", "kind", "many"])
    if not name or how == "many":
        content.update(
            {
                f"r{place}": ConfigRecord({"a": place})
                for place in range(random.choice([1, 1, 1, 1, 70]))
            }
        )
    elif how == "drop":
        del content[name]
    elif how == "rename":
        content[
            random.choice(
                ["arrays", "layout", "metrics", "node", "compressed", "method-arrays", "\n"]
            )
        ] = content[name]
        del content[name]
    elif how == "kind":
        content[name] = random.choice([ArrayRecord, ConfigRecord, MetricRecord])()
    else:
        break_key(random, content[name], how)


def break_key(random: Random, record: Any, how: str) -> None:
    """Break one key of a record."""
    key = random.choice(sorted(record) or ["seconds"])
    if how == "more":
        count = 20_000 if random.random() < 0.01 else random.choice([1, 3])
        names = ["loss-sum.{}", "loss-count.{}", "correct.{}", "num-examples.{}", "{}", "audio/{}"]
        name = random.choice(names)
        record.update(
            {
                name.format(place): value(random, record, key)
                for place in range(count if count < 9 else 1)
            }
        )
        if count > 9 and not isinstance(record, ArrayRecord):
            record.update({name.format(place): 1 for place in range(count)})
    elif random.random() < 0.1:
        record.pop(key, None)
    elif random.random() < 0.1 and key in record:
        record[random.choice(TEXTS[1:6])] = record.pop(key)
    else:
        record[key] = value(random, record, key)


def value(random: Random, record: Any, key: str) -> Any:
    """Return another value of the kind that a record takes."""
    large = random.random() < 0.004
    if isinstance(record, MetricRecord):
        length = 100_000 if large else random.choice([0, 1, 2, 3, 10])
        return random.choice([random.choice(NUMBERS), [random.choice(NUMBERS)] * length])
    if isinstance(record, ConfigRecord):
        lists = [
            ["audio"],
            ["audio", "smell"],
            ["audio"] * 10_000,
            [1, 2],
            [True],
            [],
            ["\x1b[2J" * 1000],
        ]
        if large:
            return random.choice(LARGE)
        return random.choice([*LAYOUTS, *TEXTS, *NUMBERS, *lists, True, b"", b"\xff" * 9])
    old = record.get(key)
    if old is not None and old.stype and old.data not in BAD_ARRAYS and random.random() < 0.4:
        spoiled = old.numpy().copy()
        if spoiled.size and spoiled.dtype in (np.float32, np.float64):
            spoiled.flat[0] = random.choice([np.nan, np.inf, -np.inf, 3.4e38, 1e-45, -1.0])
        elif spoiled.size and spoiled.dtype == np.int64:
            spoiled.flat[0] = random.choice([-1, 2**62])
        return Array(spoiled)
    if random.random() < 0.5:
        return Array(
            "float32", (2,), random.choice(["numpy.ndarray", ""]), random.choice(BAD_ARRAYS)
        )
    shape = random.choice(
        [(), (0,), (1,), (2,), (3,), (1, 2), (2, 0), (300,), (600, 600) if large else (6, 6)]
    )
    return Array(np.zeros(shape, random.choice(DTYPES)))


@dataclass
class Fuzz:
    """What came of the records."""

    random: Random
    records: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Start of a reason -> how often."""

    def __post_init__(self) -> None:
        """Make the line and the model."""
        self.phase = ""
        self.grid = ArrivalGrid(Line(NODES, self.answer))
        self.model = ArrayRecord({name: Array(array) for name, array in ARRAYS.items()})

    def answer(self, asked: Message) -> Pieces:
        """Answer a message.

        Honest devices well, hostile ones as they like in the phase that is tried.
        """
        if asked.metadata.dst_node_id in HONEST or asked.metadata.message_type != self.phase:
            return Pieces.of(good_reply(asked))
        self.records += 1
        return craft(self.random, asked)

    def round(self, phase: str, method: str) -> None:
        """Let all hostile devices answer once."""
        self.phase = phase
        options: dict[str, Any] = {
            "sampling": Sampling(min_available_nodes=1, min_train_nodes=1, fraction_evaluate=1.0)
        }
        guards = Guards(max_update_norm=1.0, max_example_ratio=2.0)
        strategy = FedCMI(GROUPS, 2, METHODS[method], guards=guards, **options)
        LINES.found.clear()
        if phase != "query":
            strategy.nodes.known = dict(NODES)
        if phase == "evaluate":
            asked = strategy.configure_evaluate(1, self.model, ConfigRecord({}), self.grid)
            strategy.aggregate_evaluate(1, self.grid.send_and_receive(asked, timeout=60.0))
            good = {
                node
                for node, info in NODES.items()
                if info.partition_id in strategy.report.evaluated_by
            }
        else:
            asked = strategy.configure_train(1, self.model, ConfigRecord({}), self.grid)
            good = set(strategy.nodes.known)
        if phase == "train":
            arrays, _ = strategy.aggregate_train(1, self.grid.send_and_receive(asked, timeout=60.0))
            finite = arrays is not None and all(
                np.isfinite(array.numpy()).all() for array in arrays.values()
            )
            self.expect(finite, "the model is not finite")
            good = {
                node
                for node, info in NODES.items()
                if info.partition_id in strategy.report.examples
            }
        self.check(good)

    def check(self, good: set[int]) -> None:
        """Every device's reply counts, or a line names the device and says why."""
        self.expect(good >= set(HONEST), f"honest devices were left out: {sorted(good)}")
        for node in set(NODES) - good:
            lines = [line for line in LINES.found if f" edge-{node} " in line]
            self.expect(len(lines) > 0, f"nothing is said of {node}")
            for line in lines:
                self.expect(
                    line.isprintable() and len(line) < 25_000, f"no line for a log: {line[:200]!r}"
                )
                self.reasons[line.partition(": ")[2].partition(": ")[2][:40]] += 1
        self.refused += len(set(NODES) - good)

    def expect(self, is_so: bool, problem: str) -> None:
        """Note a problem."""
        if not is_so:
            self.problems.append(f"{self.phase}, after {self.records} records: {problem}")


def peak() -> float:
    """Return the most memory that the process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def limit(megabytes: int) -> None:
    """Allow this process so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * resource.getpagesize() + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def is_limited(megabytes: int) -> bool:
    """Return whether so much at once cannot be had."""
    try:
        np.ones(megabytes * 10**6, np.uint8)
    except MemoryError:
        return True
    return False


def main() -> None:
    """Do it, and print what came of it."""
    seed, records, megabytes = map(int, sys.argv[1:])
    names = Path(tempfile.mkdtemp()) / "names.json"
    write_names(names, {node: f"edge-{node}" for node in NODES})
    os.environ[VARIABLE] = str(names)
    logger = logging.getLogger("flwr.fedcmi")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(LINES)
    LocalGrid(ClientApp(), [], {})  # gives this process the identity that Flower's have

    fuzz = Fuzz(Random(seed))
    for phase in PHASES:
        fuzz.round(phase, "fedcmi")
    before = peak()
    limit(megabytes)
    while fuzz.records < records:
        fuzz.round(fuzz.random.choice(PHASES), fuzz.random.choice(["fedcmi", "scaffold"]))
    found = {
        "records": fuzz.records,
        "refused": fuzz.refused,
        "problems": fuzz.problems[:20],
        "unpickled": len(unpickled),
    }
    more = {
        "growth": peak() - before,
        "limited": is_limited(2 * megabytes),
        "reasons": fuzz.reasons.most_common(60),
    }
    sys.stdout.write(json.dumps(found | more) + "\n")


if __name__ == "__main__":
    main()
