"""What methods keep on simulated nodes between two turns, as files that survive the simulation.

A partition has a directory with one file for each turn,
``partition-3/round-000007.safetensors``, so that a run can go on from an earlier round than the
one it was killed in. On real devices the memory stays in Flower's context.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.numpy import load_file, save

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

DIRECTORY = "node-memory"
"""Below the run directory."""
NAME = re.compile(r"round-[0-9]+\.safetensors")


def read_file_memory(directory: Path, partition: int, server_round: int) -> dict[str, torch.Tensor]:
    """Return what a node kept in its last turn before a round; empty where it had none.

    Parameters
    ----------
    directory
        The run's ``node-memory``.
    partition
        Partition id of the node.
    server_round
        Counted from 1; what was kept in this round and later ones is not looked at.

    Returns
    -------
    Name -> tensor.
    """
    turns = [
        path
        for path in _turns(directory / f"partition-{partition}")
        if _round_of(path) < server_round
    ]
    return to_state_dict(load_file(turns[-1])) if turns else {}


def keep_file_memory(
    directory: Path, partition: int, server_round: int, memory: Mapping[str, torch.Tensor]
) -> None:
    """Keep what a node has to remember of a round; nothing is written where it has nothing.

    Parameters
    ----------
    directory
        The run's ``node-memory``.
    partition
        Partition id of the node.
    server_round
        Counted from 1.
    memory
        Name -> tensor.
    """
    if not memory:
        return

    own = directory / f"partition-{partition}"
    own.mkdir(parents=True, exist_ok=True)
    write_atomically(own / f"round-{server_round:06}.safetensors", save(to_arrays(memory)))


def forget_after(directory: Path, server_round: int) -> None:
    """Remove what nodes kept after a round, since the run goes on from there."""
    for own in directory.glob("partition-*"):
        for path in _turns(own):
            if _round_of(path) > server_round:
                path.unlink()


def forget_before(directory: Path, server_round: int) -> None:
    """Remove what no run that goes on from this round or a later one reads.

    All turns but the last one up to it.
    """
    for own in directory.glob("partition-*"):
        for path in [path for path in _turns(own) if _round_of(path) <= server_round][:-1]:
            path.unlink()


def _turns(own: Path) -> list[Path]:
    """Return what was kept, oldest first; what has another name is not ours."""
    return sorted(
        (path for path in own.glob("round-*.safetensors") if NAME.fullmatch(path.name)),
        key=_round_of,
    )


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
