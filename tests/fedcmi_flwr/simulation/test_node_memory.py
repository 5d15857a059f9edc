"""Memory of simulated nodes.

A turn reads the one before it, and no more are kept than a run can go back to.
"""

from pathlib import Path

import pytest
import torch

from fedcmi_flwr.simulation.node_memory import (
    forget_after,
    forget_before,
    keep_file_memory,
    read_file_memory,
)


def keep(directory: Path, partition: int, *rounds: int) -> None:
    for t in rounds:
        keep_file_memory(
            directory, partition, t, {"c": torch.full((2,), float(t)), "n": torch.tensor(t)}
        )


def rounds(directory: Path, partition: int) -> list[int]:
    return sorted(
        int(path.stem.removeprefix("round-"))
        for path in (directory / f"partition-{partition}").iterdir()
    )


@pytest.mark.parametrize(
    ("server_round", "turn"), [(2, None), (3, 2), (5, 2), (6, 5), (1_000_001, 12)]
)
def test_a_turn_reads_the_one_before(tmp_path: Path, server_round: int, turn: int | None) -> None:
    keep(tmp_path, 3, 2, 5, 12)
    found = read_file_memory(tmp_path, 3, server_round)
    expected = {} if turn is None else {"c": torch.full((2,), float(turn)), "n": torch.tensor(turn)}
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )
    assert read_file_memory(tmp_path, 4, server_round) == {}


def test_a_method_without_memory_writes_nothing(tmp_path: Path) -> None:
    keep_file_memory(tmp_path, 0, 1, {})
    assert list(tmp_path.iterdir()) == []


def test_what_no_checkpoint_needs_is_forgotten(tmp_path: Path) -> None:
    keep(tmp_path, 0, 1, 2, 4, 5)
    keep(tmp_path, 1, 1)
    keep(tmp_path, 2, 5)
    # A run that goes on after round 4 reads round 4's, or what came last before it
    forget_before(tmp_path, 4)
    assert [rounds(tmp_path, part) for part in range(3)] == [[4, 5], [1], [5]]
    forget_after(tmp_path, 4)
    assert [rounds(tmp_path, part) for part in range(3)] == [[4], [1], []]


def test_a_process_that_died_while_writing_leaves_the_turn_before(tmp_path: Path) -> None:
    keep(tmp_path, 0, 1)
    (tmp_path / "partition-0" / ".round-000002.safetensors.partial").write_bytes(b"half")
    assert read_file_memory(tmp_path, 0, 3)["n"] == 1
