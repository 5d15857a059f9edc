"""Replies in pieces that a hostile device has made.

The run goes on, within its memory, and the device is named.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import Message as SentMessage
from fuzzing import ARRAYS
from pieces import Line, Pieces
from wire_fuzz import GROUPS, HOSTILE, NODES, good_reply

from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import FedCMI, arrivals
from fedcmi_flwr.strategy.arrivals import ArrivalGrid

HELPERS = Path(__file__).parents[2] / "helpers"
RECORDS, PROCESSES = 10_000, 2
ALLOWED, LARGEST_GROWTH = 512, 256
"""In MB: what a process may have beside what it has at the start, and what its memory may grow
by."""
Spoil = Callable[[Pieces], None]


def test_ten_thousand_crafted_replies_under_a_limit_of_memory() -> None:
    """To queries, training and evaluation; of all that are refused the device is named."""
    path = os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])])
    # Each arena would count as 64 MB
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "MALLOC_ARENA_MAX": "2",
    }
    command = [sys.executable, str(HELPERS / "wire_fuzz.py")]
    numbers = [[str(seed), str(RECORDS // PROCESSES), str(ALLOWED)] for seed in range(PROCESSES)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, *some], env=environment, **pipes) for some in numbers]
    ended = [(process, *process.communicate()) for process in started]
    for process, printed, errors in ended:
        assert process.returncode == 0, errors[-3000:]
        found = json.loads(printed)
        assert found["problems"] == []
        assert found["unpickled"] == 0
        assert found["limited"]
        assert found["growth"] < LARGEST_GROWTH
        assert found["records"] >= RECORDS // PROCESSES
        assert found["refused"] > 0.8 * found["records"]
        assert len(found["reasons"]) == 60


def trained(
    spoil: Spoil, wrap: Callable[[Line], Any] = ArrivalGrid, timeout: float = 60.0
) -> FedCMI:
    """Return a strategy after a round in which one device's reply is spoiled."""
    LocalGrid(ClientApp(), [], {})  # gives this process the identity that Flower's have

    def answer(asked: Message) -> Pieces:
        pieces = Pieces.of(good_reply(asked))
        if asked.metadata.dst_node_id == HOSTILE[0]:
            spoil(pieces)
        return pieces

    grid = wrap(Line(NODES, answer))
    strategy = FedCMI(GROUPS, 2, min_available_nodes=1, min_train_nodes=1)
    strategy.nodes.known = dict(NODES)
    model = ArrayRecord({name: Array(array) for name, array in ARRAYS.items()})
    asked = strategy.configure_train(1, model, ConfigRecord({}), grid)
    strategy.aggregate_train(1, grid.send_and_receive(asked, timeout=timeout))
    return strategy


def no_json(pieces: Pieces) -> None:
    pieces.rewrite(pieces.names("Array")[0], lambda kind, children, _: (kind, children, b"{"))


def repeated(pieces: Pieces) -> None:
    """Have 2 MB of numbers make an array of 100 MB."""

    def change(kind: str, children: list[str], body: bytes) -> tuple[str, list[str], bytes]:
        return (
            kind,
            children,
            json.dumps(json.loads(body) | {"arraychunk_ids": [0] * 700_000}).encode(),
        )

    pieces.rewrite(pieces.names("Array")[0], change)


def too_large(pieces: Pieces) -> None:
    pieces.rewrite(
        pieces.names("ArrayChunk")[0], lambda kind, children, _: (kind, children, bytes(2**23))
    )


def too_many(pieces: Pieces) -> None:
    made = [f"ArrayChunk  4\0{place:04}".encode() for place in range(2000)]
    pieces.contents |= {hashlib.sha256(content).hexdigest(): content for content in made}


def as_another(pieces: Pieces) -> None:
    def change(kind: str, children: list[str], body: bytes) -> tuple[str, list[str], bytes]:
        message = SentMessage.FromString(body)
        message.metadata.src_node_id = HOSTILE[1]
        return kind, children, bytes(message.SerializeToString())

    pieces.rewrite(pieces.names("Message")[0], change)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_json, "its pieces make no message: JSONDecodeError"),
        (repeated, "its arrays name the same pieces again and again"),
        (too_large, r"it has more than 4\d{6} bytes, and no more are taken"),
        (too_many, r"it is in 20\d\d pieces, at most \d+ are taken"),
    ],
)
def test_pieces_that_make_no_reply_are_refused_by_name(spoil: Spoil, said: str) -> None:
    strategy = trained(spoil)
    (line,) = strategy.report.refused
    assert f"node {HOSTILE[0]} " in line
    assert re.search(said, line)
    assert len(strategy.report.examples) == len(NODES) - 1


def test_a_reply_is_whose_the_superlink_says_that_it_is() -> None:
    strategy = trained(as_another)
    assert strategy.report.refused == []
    assert len(strategy.report.examples) == len(NODES)


def test_a_piece_that_never_comes_is_waited_for_until_the_round_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals, "LEAST_WAIT", 0.5)

    class Missing(Line):
        def push_messages(self, messages: Any) -> list[str]:
            names = list(super().push_messages(messages))
            pieces = next(
                each
                for each in self.superlink.replies.values()
                if each.sent.metadata.src_node_id == HOSTILE[0]
            )
            self.superlink.store.store[pieces.names("ArrayChunk")[-1]].is_available = False
            return names

    begun = time.monotonic()
    strategy = trained(
        with_its_own, lambda line: ArrivalGrid(Missing(line.nodes, line.answer)), 3.0
    )
    assert time.monotonic() - begun < 30.0
    (line,) = strategy.report.refused
    assert f"node {HOSTILE[0]} " in line
    assert "a piece of it could not be taken" in line


def with_its_own(pieces: Pieces) -> None:
    """Give the device a piece that no other one has."""
    pieces.rewrite(
        pieces.names("ArrayChunk")[0], lambda kind, children, body: (kind, children, body + b"own")
    )


def test_flowers_own_grid_ends_the_run_there() -> None:
    """That is why there is another way of taking replies; when this fails, Flower has mended it."""
    with pytest.raises(json.JSONDecodeError):
        trained(no_json, lambda line: line)
