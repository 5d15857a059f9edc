"""Replies as they arrive: each once, few at a time, until all are there or the time is over."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcmi_flwr.strategy import arrivals
from fedcmi_flwr.strategy.arrivals import AT_ONCE, ArrivalGrid

Maker = Callable[..., Any]


class Slow(Grid):
    """A grid whose replies become ready one after the other, at each look.

    Counts what was asked for and is unread.
    """

    def __init__(self, delays: list[int]) -> None:
        self.delays = delays
        """Looks that each reply takes."""
        self.asked: list[int] = []
        self.pushed = 0

    def set_run(self, run: Any) -> None:
        """Forget it."""

    @property
    def run(self) -> Any:
        """Return a mark."""
        return "the run"

    def create_message(self, *arguments: Any, **more: Any) -> Message:
        """Return what the inner grid makes."""
        return Message(RecordDict(), dst_node_id=arguments[2], message_type=arguments[1])

    def get_node_ids(self) -> Iterable[int]:
        """Return two."""
        return [1, 2]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return numbers; the sixth message cannot be sent."""
        self.pushed = len(list(messages))
        return [str(place) if place < 5 else None for place in range(self.pushed)]  # type: ignore[misc]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return those that are ready."""
        ids = list(message_ids)
        self.asked.append(len(ids))
        ready = []
        for name in ids:
            self.delays[int(name)] -= 1
            if self.delays[int(name)] < 0:
                reply = Message(
                    RecordDict({"r": ConfigRecord({"id": name})}),
                    dst_node_id=1,
                    message_type="train",
                )
                reply.metadata.__dict__["_reply_to_message_id"] = name
                ready.append(reply)
        return ready

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Fail: the wrapper does it."""
        raise AssertionError


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.0)


def messages(count: int) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=1, message_type="train") for _ in range(count)]


@pytest.mark.usefixtures("federation", "_no_waiting")
def test_each_reply_comes_once_and_in_the_order_of_arrival(federation: Maker) -> None:
    federation([("audio",)], [1]).grid()  # Flower builds messages only in a task
    grid = Slow([2, 0, 1, 0, 5])
    found = [reply.content["r"]["id"] for reply in ArrivalGrid(grid).send_and_receive(messages(6))]
    assert found == ["1", "3", "2", "0", "4"]
    assert max(grid.asked) == AT_ONCE < 5


@pytest.mark.usefixtures("_no_waiting")
def test_messages_are_sent_at_once_and_replies_taken_when_wanted(federation: Maker) -> None:
    federation([("audio",)], [1]).grid()
    grid = Slow([0] * 5)
    replies = iter(ArrivalGrid(grid).send_and_receive(messages(5)))
    assert (grid.pushed, grid.asked) == (5, [])
    next(replies)
    assert grid.asked == [AT_ONCE]


@pytest.mark.usefixtures("_no_waiting")
def test_after_the_time_the_others_are_left(federation: Maker) -> None:
    federation([("audio",)], [1]).grid()
    grid = ArrivalGrid(Slow([10**9, 0]))
    assert [
        reply.content["r"]["id"] for reply in grid.send_and_receive(messages(2), timeout=0.0)
    ] == ["1"]


def test_all_else_is_the_inner_grids(federation: Maker) -> None:
    nodes = federation([("audio",), ("audio", "visual")], [1, 1])
    inner = nodes.grid()
    grid = ArrivalGrid(inner)
    assert list(grid.get_node_ids()) == [1001, 1002]
    grid.set_run("another")  # type: ignore[arg-type]
    assert grid.run == inner.run == "another"
    assert grid.create_message(RecordDict(), "query", 1001, "g").metadata.dst_node_id == 1001
    ids = grid.push_messages([Message(RecordDict(), dst_node_id=1002, message_type="query")])
    (reply,) = grid.pull_messages(ids)
    assert reply.content["node"]["modalities"] == ["audio", "visual"]


def test_a_federation_gives_the_same_weights_through_it(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    owned = [("audio", "visual"), ("audio",), ("visual",)] * 3
    results = []
    for wrap in (lambda grid: grid, ArrivalGrid):
        found, _ = train_round(make_strategy(), wrap(federation(owned, list(range(1, 10))).grid()))
        results.append({name: value.tobytes() for name, value in found.items()})
    assert results[0] == results[1]
