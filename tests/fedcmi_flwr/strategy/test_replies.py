"""Replies of a round on a toy federation.

What is malformed, missing, doubled or an error is refused by name.
"""

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Error, Message
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.strategy.nodes import RoundFailedError

BOTH = ("audio", "visual")
RAY_DIED = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died'>"
Maker = Callable[..., Any]


def _without_eye(message: Message, part: int) -> Message:
    task = wire.read_task(message)
    reply = wire.train_reply(message, task.arrays, 1, applied=everything(message))
    del reply.content["arrays"]["visual/float32"]
    return reply


def _with_a_long_layout(message: Message, part: int) -> Message:
    task = wire.read_task(message)
    reply = wire.train_reply(message, task.arrays, 1)
    layout = reply.content["layout"]
    layout["visual"] = layout["visual"] + " " * 2**21
    return reply


def _raising(message: Message, part: int) -> Message:
    raise OSError("disk is full")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (_without_eye, "'visual/float32' is missing"),
        (
            _with_a_long_layout,
            r"it has 2\d+ bytes; of a node that was sent arrays of \d+, at most 1\d+ are read",
        ),
        (_raising, "error 2: .*OSError.*disk is full"),
    ],
)
def test_a_bad_reply_is_refused_by_name_and_the_others_are_used(
    federation: Maker,
    make_strategy: Maker,
    train_round: Maker,
    log_lines: list[str],
    bad: Maker,
    words: str,
) -> None:
    """Of nodes 0 and 1, that add 1 and 2 to the head's 4, the second is refused: 5 remains."""
    nodes, strategy = federation([BOTH, BOTH], [1, 1], replies={1: bad}), make_strategy()
    found, metrics = train_round(strategy, nodes.grid())
    assert found["head.w"].tolist() == [5.0]
    assert (metrics["refused"], metrics["num-examples"]) == (1, 1)
    assert strategy.report.owners["shared"] == [0]
    line = next(line for line in log_lines if "refused" in line)
    assert "node 1002 (partition 1, audio+visual)" in line
    assert line.endswith(strategy.report.refused[0])
    assert re.search(words, line)
    assert set(strategy.report.bytes_up) == {0, 1}


def test_no_valid_reply_fails_the_round_and_says_why(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH, BOTH], [1, 1], replies={0: _without_eye, 1: _raising})
    with pytest.raises(
        RoundFailedError, match=r"round 4: none of 2 replies.*partition 0.*is missing"
    ):
        train_round(make_strategy(), nodes.grid(), server_round=4)


@pytest.mark.parametrize(
    ("code", "reason"), [(0, RAY_DIED), (0, "ray.exceptions.OutOfMemoryError")]
)
def test_a_poisoned_pool_stops_the_run(
    federation: Maker,
    make_strategy: Maker,
    train_round: Maker,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    reason: str,
) -> None:
    """In a simulation.

    Where Ray does not run, a node that speaks of it is refused like any other.
    """

    def die(replies: list[Message]) -> list[Message]:
        return [Message(Error(code=code, reason=reason), reply_to=_asked(replies[0])), *replies[1:]]

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    strategy = make_strategy()
    train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=die)
    assert len(strategy.report.refused) == 1
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(RoundFailedError, match=r"process died.*ray\.exceptions"):
        train_round(make_strategy(), federation([BOTH, BOTH], [1, 1]).grid(), order=die)


def _asked(reply: Message) -> Message:
    """Return a message to the node that sent ``reply``, so that an error can answer it."""
    message = wire.query_message(reply.metadata.src_node_id, 1)
    message.metadata.__dict__["_message_id"] = "1"
    return message


@pytest.mark.parametrize(("code", "reason"), [(0, "unknown"), (2, RAY_DIED), (8, "client crashed")])
def test_other_errors_are_refused_like_any_bad_reply(
    federation: Maker, make_strategy: Maker, train_round: Maker, code: int, reason: str
) -> None:
    def fail(replies: list[Message]) -> list[Message]:
        return [Message(Error(code=code, reason=reason), reply_to=_asked(replies[0])), *replies[1:]]

    strategy = make_strategy()
    found, _ = train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=fail)
    assert found["head.w"].tolist() == [6.0]
    assert [f"error {code}" in line for line in strategy.report.refused] == [True]


def test_missing_doubled_and_foreign_replies_are_noted(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node 0 (adds 1) answers twice, node 1 (adds 2) never; the head is 4 + 1."""
    strategy = make_strategy()
    found, _ = train_round(
        strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=lambda replies: replies[:1] * 2
    )
    assert found["head.w"].tolist() == [5.0]
    assert strategy.report.refused == [
        "Reply of node 1001 (partition 0, audio+visual) refused: it was not asked in this round, "
        "or answered before.",
        "No reply of node 1002 (partition 1, audio+visual). The round's time is over.",
    ]


def test_a_node_that_left_is_refused_once_with_flowers_reason(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Flower answers for a SuperNode that died with code 5 and node id 1."""

    def leave(replies: list[Message]) -> list[Message]:
        answer = wire.query_message(1, 1)
        answer.metadata.__dict__["_message_id"] = "1"
        return [Message(Error(code=5, reason="Node Unavailable"), reply_to=answer), *replies[1:]]

    strategy = make_strategy()
    train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=leave)
    expected = (
        "No reply of node 1001 (partition 0, audio+visual). Flower says: error 5: Node Unavailable"
    )
    assert strategy.report.refused == [expected]
