"""The node registry: who is asked what and when, and how long the server waits."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import nodes
from fedcmi_flwr.strategy.nodes import NodeRegistry, RoundFailedError

BOTH = ("audio", "visual")
Maker = Callable[..., Any]


def _registry(least: int = 1, seed: int = 0, timeout: float = 0.01) -> NodeRegistry:
    return NodeRegistry(BOTH, seed, least, timeout)


def _renumbered(grid: LocalGrid, ids: Iterable[int]) -> LocalGrid:
    """Give the nodes other ids, as every run of Flower does."""
    grid.contexts = dict(zip(ids, grid.contexts.values(), strict=True))
    return grid


def _partitions(registry: NodeRegistry, ids: list[int]) -> list[int]:
    return [registry.known[node].partition_id for node in ids]


def _sampled(grid: LocalGrid, seed: int = 0, purpose: str = "train") -> list[list[int]]:
    registry = _registry(seed=seed)
    return [_partitions(registry, registry.sample(grid, t, 0.4, 1, purpose)) for t in range(1, 6)]


def test_sampling_follows_partitions_whatever_the_node_ids(federation: Maker) -> None:
    toy = federation([BOTH] * 10, [1] * 10)
    first = _sampled(toy.grid())
    assert all(part == sorted(set(part)) and len(part) == 4 for part in first)
    ids = [97, 12, 55, 3, 88, 41, 76, 29, 60, 18]
    assert _sampled(_renumbered(toy.grid(), ids)) == first
    assert _sampled(toy.grid(), seed=1) != first
    assert _sampled(toy.grid(), purpose="evaluate") != first
    assert len({tuple(part) for part in first}) > 1
    assert len({part for chosen in first for part in chosen}) > 4


@pytest.mark.parametrize(
    ("fraction", "least", "expected"),
    [(0.5, 1, 3), (0.01, 2, 2), (1.0, 1, 7), (0.3, 9, 7), (0.99, 1, 6)],
)
def test_as_many_as_the_fraction_says_but_not_fewer_than_the_least(
    federation: Maker, fraction: float, least: int, expected: int
) -> None:
    grid = federation([BOTH] * 7, [1] * 7).grid()
    assert len(_registry().sample(grid, 1, fraction, least, "train")) == expected


def test_every_node_is_asked_once_and_late_joiners_when_they_come(federation: Maker) -> None:
    toy = federation([BOTH, ("audio",), ("visual",)], [1] * 3)
    registry, grid = _registry(), toy.grid()
    late = grid.contexts.pop(1003)
    for server_round in (1, 2):
        registry.sample(grid, server_round, 1.0, 1, "train")
    assert toy.queries == [0, 1]
    grid.contexts[1003] = late
    chosen = registry.sample(grid, 3, 1.0, 1, "train")
    assert toy.queries == [0, 1, 2]
    assert _partitions(registry, chosen) == [0, 1, 2]
    assert registry.known[1003].modalities == ("visual",)


def test_a_node_that_left_is_forgotten(federation: Maker) -> None:
    toy = federation([BOTH] * 3, [1] * 3)
    registry, grid = _registry(), toy.grid()
    registry.sample(grid, 1, 1.0, 1, "train")
    gone = grid.contexts.pop(1002)
    assert registry.sample(grid, 2, 1.0, 1, "train") == [1001, 1003]
    grid.contexts[2002] = gone  # it comes back under another id
    assert registry.sample(grid, 3, 1.0, 1, "train") == [1001, 2002, 1003]


def test_waiting_ends_and_says_what_is_missing(
    federation: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.001)
    with pytest.raises(
        RoundFailedError, match=r"2 of 2 connected nodes.*wait-timeout.*min-available-nodes = 3"
    ):
        _registry(least=3).sample(federation([BOTH] * 2, [1] * 2).grid(), 1, 1.0, 1, "train")


def test_waiting_ends_when_the_nodes_are_there(
    federation: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.0)
    toy = federation([BOTH] * 2, [1] * 2)
    grid, looks = toy.grid(), []

    def get_node_ids() -> list[int]:
        looks.append(1)
        return list(grid.contexts)[: len(looks) // 3]

    monkeypatch.setattr(grid, "get_node_ids", get_node_ids)
    assert _registry(least=2, timeout=60.0).sample(grid, 1, 1.0, 1, "train") == [1001, 1002]
    assert len(looks) == 6
    assert toy.queries == [0, 1]


def test_a_partition_id_that_is_taken_is_refused(federation: Maker, log_lines: list[str]) -> None:
    toy = federation([BOTH] * 3, [1] * 3, partition_ids=[4, 4, 5])
    assert _registry().sample(toy.grid(), 1, 1.0, 1, "train") == [1001, 1003]
    assert [line for line in log_lines if "node 1002" in line and "partition-id 4 is taken" in line]
    with pytest.raises(
        RoundFailedError,
        match=r"2 of 3 connected nodes can be used.*node 1002: partition-id 4 is taken",
    ):
        _registry(least=3).sample(toy.grid(), 1, 1.0, 1, "train")


def test_a_node_with_a_foreign_modality_cannot_be_used(federation: Maker) -> None:
    toy = federation([BOTH, ("smell",)], [1] * 2)
    assert _registry().sample(toy.grid(), 1, 1.0, 1, "train") == [1001]
    with pytest.raises(
        RoundFailedError, match=r"node 1002: node: modalities = \['smell'\].*'audio', 'visual'"
    ):
        _registry(least=2).sample(toy.grid(), 1, 1.0, 1, "train")


def test_a_node_that_raises_when_asked_fails_the_round_with_its_reason(federation: Maker) -> None:
    toy = federation([BOTH, BOTH], [1] * 2, partition_ids=[0])
    with pytest.raises(RoundFailedError, match=r"1 of 2 .*node 1002: error 2: .*IndexError"):
        _registry(least=2).sample(toy.grid(), 1, 1.0, 1, "train")


def test_a_partition_id_stays_with_its_node_while_that_is_asked_again(federation: Maker) -> None:
    """Node 1001 fails and is asked again; before it answers, 1002 claims its id.

    Only when it has left is it free.
    """
    toy = federation([BOTH] * 3, [1] * 3)
    registry, grid = _registry(), toy.grid()
    registry.sample(grid, 1, 1.0, 1, "train")
    registry.ask_again([1001, 1002])
    toy.partition_ids = [0, 0, 2]
    connected, grid.contexts = grid.contexts, dict(reversed(grid.contexts.items()))
    assert _partitions(registry, registry.sample(grid, 2, 1.0, 1, "train")) == [0, 2]
    assert registry.known[1001].partition_id == 0
    assert "partition-id 0 is taken" in registry.unusable[1002].reason
    grid.contexts = {node: context for node, context in connected.items() if node != 1001}
    registry.sample(grid, 3, 1.0, 1, "train")
    assert registry.known[1002].partition_id == 0
