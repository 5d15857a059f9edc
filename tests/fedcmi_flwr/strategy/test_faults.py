"""What each fault of a network does to a round.

Flower's errors, silence, nodes that change, and failed rounds.
"""

import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import ModalityStrategy
from fedcmi_flwr.strategy.nodes import RoundFailedError

BOTH = ("audio", "visual")
START = {
    "ear.w": np.zeros(1, np.float32),
    "eye.w": np.zeros(1, np.float32),
    "head.w": np.zeros(1, np.float32),
}
Maker = Callable[..., Any]
Change = Callable[[list[Message]], list[Message]]


class Rounds:
    """Plays rounds as Flower's ``start`` does: a failed one leaves the weights as they were."""

    def __init__(self, strategy: ModalityStrategy, grid: LocalGrid) -> None:
        self.strategy, self.grid, self.done, self.arrays = strategy, grid, 0, dict(START)

    def play(self, change: Change = list) -> dict[str, list[float]]:
        """Run the next round; ``change`` does to the replies what the network did."""
        self.done += 1
        record = ArrayRecord({name: Array(value) for name, value in self.arrays.items()})
        messages = list(self.strategy.configure_train(self.done, record, ConfigRecord(), self.grid))
        replies = change(list(self.grid.send_and_receive(messages)))
        aggregated, _ = self.strategy.aggregate_train(self.done, replies)
        if aggregated is not None:
            self.arrays = {name: array.numpy() for name, array in aggregated.items()}
        return {name: value.tolist() for name, value in self.arrays.items()}


def nothing(replies: list[Message]) -> list[Message]:
    return []


def answered_with(code: int, reason: str, node: int = 1001) -> Change:
    """Return a network in which Flower answers for the node with an error."""

    def change(replies: list[Message]) -> list[Message]:
        failed = next(reply for reply in replies if reply.metadata.src_node_id == node)
        error = Message(Error(code=code, reason=reason), reply_to=failed)
        error.metadata.__dict__["_src_node_id"] = 1 if code == 5 else node
        return [error, *(reply for reply in replies if reply is not failed)]

    return change


def silent(node: int) -> Change:
    return lambda replies: [reply for reply in replies if reply.metadata.src_node_id != node]


FAULTS = [
    (answered_with(2, "<class 'OSError'>:<'disk'>"), "Reply of node 1001 .*error 2: .*disk"),
    (
        answered_with(8, "the client process ended"),
        "Reply of node 1001 .*error 8: the client process ended",
    ),
    (
        answered_with(5, "node unavailable"),
        "No reply of node 1001 .*Flower says: error 5: node unavailable",
    ),
    (silent(1001), "No reply of node 1001 .*The round's time is over"),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS)
def test_a_failed_node_is_left_out_asked_again_and_then_used(
    federation: Maker, make_strategy: Maker, fault: Change, line: str
) -> None:
    """Node p adds p + 1: the head is 2 without node 0, then 2 + (1 + 2) / 2."""
    toy = federation([BOTH, BOTH], [1, 1])
    rounds = Rounds(make_strategy(), toy.grid())
    assert rounds.play(fault)["head.w"] == [2.0]
    (refused,) = rounds.strategy.report.refused
    assert re.search(line, refused)
    assert rounds.play()["head.w"] == [3.5]
    assert rounds.strategy.report.refused == []
    assert toy.queries == [0, 1, 0]


def test_a_dead_actor_ends_the_run_whatever_the_budget(
    federation: Maker, make_strategy: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # as in a simulation
    rounds = Rounds(make_strategy(failure_budget=9), federation([BOTH, BOTH], [1, 1]).grid())
    rounds.play()
    with pytest.raises(RoundFailedError, match="simulated client's process died"):
        rounds.play(answered_with(0, "<class 'ray.exceptions.ActorDiedError'>:<'died'>"))


def test_a_node_with_other_modalities_is_used_for_those_once_it_is_asked_again(
    federation: Maker, make_strategy: Maker
) -> None:
    """A real node notices and raises (tests/client_app).

    Its next turn is with what it then says.
    """
    toy = federation([BOTH, BOTH], [1, 1])
    rounds = Rounds(make_strategy(), toy.grid())
    rounds.play()
    toy.owned[0] = ("audio",)
    rounds.play(answered_with(2, "now has samples of ['audio']"))
    rounds.play()
    assert rounds.strategy.report.owners == {"audio": [0, 1], "visual": [1], "shared": [0, 1]}


def test_a_node_that_cannot_be_used_is_asked_after_1_2_4_and_then_every_8_rounds(
    federation: Maker, make_strategy: Maker
) -> None:
    """Asked in rounds 1, 2, 4, 8, 16 and 24; it is mended before the last."""
    toy = federation([BOTH, ("smell",)], [1, 1])
    rounds, asked = Rounds(make_strategy(), toy.grid()), []
    for server_round in range(1, 26):
        if server_round == 24:
            toy.owned[1] = ("visual",)
        before = len(toy.queries)
        rounds.play()
        asked += [server_round] * (len(toy.queries) - before)
    assert asked == [1, 1, 2, 4, 8, 16, 24]
    assert rounds.strategy.report.owners["visual"] == [0, 1]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_as_many_failed_rounds_as_the_budget_then_the_end(
    federation: Maker, make_strategy: Maker, left: int, log_lines: list[str]
) -> None:
    rounds = Rounds(make_strategy(failure_budget=left), federation([BOTH], [1]).grid())
    trained = rounds.play()
    for _ in range(2):  # a round that succeeds fills the budget up again
        for _ in range(left):
            assert rounds.play(nothing) == trained
            assert "none of 1 replies can be used" in rounds.strategy.report.failed
            assert rounds.strategy.report.failed in log_lines[-1]
        trained = rounds.play()
        assert rounds.strategy.report.failed == ""
    for _ in range(left):
        rounds.play(nothing)
    with pytest.raises(
        RoundFailedError, match=rf"round {rounds.done + 1}: none of 1 replies can be used"
    ):
        rounds.play(nothing)


def test_a_run_whose_first_round_fails_ends_at_once(
    federation: Maker, make_strategy: Maker
) -> None:
    rounds = Rounds(make_strategy(failure_budget=5), federation([BOTH], [1]).grid())
    with pytest.raises(RoundFailedError, match="round 1: none of 1 replies"):
        rounds.play(nothing)


def test_a_resumed_run_has_its_budget_from_the_start(
    federation: Maker, make_strategy: Maker
) -> None:
    strategy = make_strategy(failure_budget=1)
    strategy.resume(3, strategy.state(), nodes_remember=False)
    rounds = Rounds(strategy, federation([BOTH], [1]).grid())
    assert rounds.play(nothing)["head.w"] == [0.0]
    assert strategy.report.plan.server_round == 4


def test_a_round_without_nodes_fails_and_the_next_one_has_them(
    federation: Maker, make_strategy: Maker
) -> None:
    toy = federation([BOTH], [1])
    rounds = Rounds(make_strategy(), toy.grid())
    rounds.play()
    gone, rounds.grid.contexts = rounds.grid.contexts, {}
    rounds.play()
    assert "0 of 0 connected nodes can be used" in rounds.strategy.report.failed
    assert (
        list(rounds.strategy.configure_evaluate(2, ArrayRecord(), ConfigRecord(), rounds.grid))
        == []
    )
    rounds.grid.contexts = gone
    assert rounds.play()["head.w"] == [2.0]


@pytest.mark.parametrize(("needed", "failed"), [(2, False), (3, True)])
def test_fewer_replies_than_needed_fail_the_round(
    federation: Maker, make_strategy: Maker, needed: int, failed: bool
) -> None:
    rounds = Rounds(make_strategy(min_replies=needed), federation([BOTH] * 3, [1] * 3).grid())
    before = rounds.play()
    after = rounds.play(silent(1002))
    assert (after == before) is failed
    assert bool(rounds.strategy.report.failed) is failed
    if failed:
        assert "2 of 3 replies can be used, min-replies = 3. The first: No reply of node 1002" in (
            rounds.strategy.report.failed
        )


@pytest.mark.parametrize(
    ("owned", "needed", "trained"),
    [
        (
            [BOTH, ("audio",), ("visual",)],
            2,
            {"audio": [0, 1], "visual": [0, 2], "shared": [0, 1, 2]},
        ),
        (
            [BOTH, ("audio",), ("audio",)],
            2,
            {"audio": [0, 1, 2], "visual": [], "shared": [0, 1, 2]},
        ),
        (
            [("audio",), ("audio",), ("audio",)],
            1,
            {"audio": [0, 1, 2], "visual": [], "shared": [0, 1, 2]},
        ),
    ],
)
def test_a_modality_with_too_few_owners_keeps_its_value_and_nobody_teaches(
    federation: Maker,
    make_strategy: Maker,
    log_lines: list[str],
    owned: list[Sequence[str]],
    needed: int,
    trained: dict[str, list[int]],
) -> None:
    rounds = Rounds(
        make_strategy(min_owners_per_modality=needed), federation(owned, [1] * 3).grid()
    )
    arrays, report = rounds.play(), rounds.strategy.report
    assert report.owners == trained
    assert (arrays["eye.w"] == [0.0]) is (trained["visual"] == [])
    assert set(report.stats.count) == {modality for modality in BOTH if trained[modality]}
    assert (rounds.strategy.dominance.dominant is None) is (trained["visual"] == [])
    assert any("'visual'; it keeps its value" in line for line in log_lines) is (
        trained["visual"] == []
    )


def test_the_dominant_modality_teaches_again_when_its_owners_are_back(
    federation: Maker, make_strategy: Maker
) -> None:
    rounds = Rounds(make_strategy(), federation([BOTH, ("visual",)], [1, 1]).grid())
    rounds.play()
    teacher = rounds.strategy.dominance.dominant
    assert teacher == "audio"
    rounds.play(silent(1001))
    assert rounds.strategy.dominance.dominant is None
    rounds.play()
    assert rounds.strategy.report.plan.used.dominant is None
    assert rounds.strategy.dominance.dominant == teacher


def test_no_modality_with_enough_owners_fails_the_round(
    federation: Maker, make_strategy: Maker
) -> None:
    rounds = Rounds(
        make_strategy(min_owners_per_modality=2),
        federation([("audio",), ("visual",)], [1, 1]).grid(),
    )
    with pytest.raises(
        RoundFailedError, match=r"no modality was trained by 2 nodes \(min-owners-per-modality\)"
    ):
        rounds.play()
