"""Checkpoints of a run, each a directory ``checkpoints/round-000003`` that is there whole or not at
all.

``arrays.safetensors`` holds every array, ``state.json`` the rest, and ``SHA256SUMS`` the
checksums of both, as ``sha256sum --check`` reads them. There is no generator's state to keep:
everything random is drawn from (seed, purpose, round, partition).
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedcmi_flwr.machine.atomic_files import new_directory
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.models.file import CheckpointError
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.types import AnyArray, Scalar

CHECKPOINTS = "checkpoints"
"""Below the run directory."""
NAME = re.compile(r"round-[0-9]+")
FEWEST = 2
"""Checkpoints that are there after the second one was written."""
ARRAYS, STATE, SUMS = "arrays.safetensors", "state.json", "SHA256SUMS"
logger = logging.getLogger("flwr.fedcmi")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run goes on from."""

    server_round: int
    """The last round that is done, counted from 1."""
    arrays: Mapping[str, AnyArray]
    """The global model that nodes train on, trained arrays only."""
    average: Mapping[str, AnyArray]
    """Its moving average; empty where the method has none."""
    state: ServerState
    """Of the strategy."""
    run_config: Mapping[str, Scalar]
    """As the run was given it."""
    versions: Mapping[str, str]
    """Package -> version."""
    num_nodes: int | None = None
    """Simulated nodes among which the data is dealt; None: devices, or nobody said."""


def write_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a checkpoint, and then remove all but the newest ones.

    The one before it always stays: whether nodes can train on the new one is known after the
    next round only.

    Parameters
    ----------
    directory
        The run's ``checkpoints``; made when missing.
    checkpoint
        What to write.
    keep
        Checkpoints to keep; of fewer than ``FEWEST``, as many.
    """
    parts = {part: _contiguous(arrays) for part, arrays in _to_parts(checkpoint).items()}
    # In order, which safetensors does not keep
    described = {
        "round": checkpoint.server_round,
        "dominant": checkpoint.state.dominance.dominant,
        "names": {part: list(arrays) for part, arrays in parts.items()},
        "run-config": dict(checkpoint.run_config),
        "versions": dict(checkpoint.versions),
        "num-nodes": checkpoint.num_nodes,
    }
    files = {
        ARRAYS: save(
            {
                f"{part}/{name}": value
                for part, arrays in parts.items()
                for name, value in arrays.items()
            }
        ),
        STATE: (json.dumps(described, indent=1) + "\n").encode(),
    }
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    with new_directory(directory / f"round-{checkpoint.server_round:06}") as partial:
        for name, content in {**files, SUMS: "".join(sums).encode()}.items():
            (partial / name).write_bytes(content)

    for path in stored_checkpoints(directory)[: -max(keep, FEWEST)]:
        shutil.rmtree(path)


def stored_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints below ``checkpoints``, oldest first, whatever state they are in, and
    nothing else.
    """
    return sorted(
        (path for path in directory.glob("round-*") if NAME.fullmatch(path.name)), key=round_of
    )


def round_of(path: Path) -> int:
    """Return the round that a checkpoint's name says."""
    return int(path.name.removeprefix("round-"))


def newest_checkpoint(run_dir: Path) -> Checkpoint:
    """Return the newest checkpoint that is whole; a warning names those that are not.

    Parameters
    ----------
    run_dir
        The run directory.

    Returns
    -------
    The checkpoint.

    Raises
    ------
    CheckpointError
        There is none.
    """
    paths = stored_checkpoints(run_dir / CHECKPOINTS)
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; the checkpoint before it is used", error)

    found = f"none of {len(paths)} can be used" if paths else "there is none"
    raise CheckpointError(
        f"{run_dir / CHECKPOINTS}: no checkpoint to go on from, {found}; the run ended before its "
        "first one, or had checkpoint-every = 0. Start it again with another run-dir."
    )


def checkpoint_before(run_dir: Path, server_round: int) -> Checkpoint | None:
    """Return the newest whole checkpoint of an earlier round; None where there is none."""
    for path in reversed(stored_checkpoints(run_dir / CHECKPOINTS)):
        if round_of(path) < server_round:
            with contextlib.suppress(CheckpointError):
                return read_checkpoint(path)

    return None


def remove_from(directory: Path, server_round: int) -> None:
    """Remove the checkpoints of a round and of later ones, if there is an earlier one to go on
    from.
    """
    paths = stored_checkpoints(directory)
    unusable = [path for path in paths if round_of(path) >= server_round]
    if len(unusable) < len(paths):
        for path in unusable:
            shutil.rmtree(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking it against its checksums.

    Parameters
    ----------
    path
        Its directory.

    Returns
    -------
    The checkpoint.

    Raises
    ------
    CheckpointError
        A file cannot be read or differs from its checksum, or is not what
        :func:`write_checkpoint` writes.
    """
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: found for found, _, name in (line.partition("  ") for line in lines)}
        files = {name: (path / name).read_bytes() for name in (ARRAYS, STATE)}

        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != sums.get(name):
                raise CheckpointError(
                    f"checkpoint {path} is broken: {name} differs from its checksum in {SUMS}"
                )

        described, flat = json.loads(files[STATE]), load(files[ARRAYS])
        names = described["names"]
        parts = {
            part: {name: flat[f"{part}/{name}"] for name in members}
            for part, members in names.items()
        }

        return _from_parts(described, parts)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path} is broken: {error!r}") from error


def _to_parts(checkpoint: Checkpoint) -> dict[str, Mapping[str, AnyArray]]:
    dominance = checkpoint.state.dominance
    return {
        "arrays": checkpoint.arrays,
        "average": checkpoint.average,
        "method": checkpoint.state.method,
        "optimizer": checkpoint.state.optimizer,
        "ratio": {name: value.numpy() for name, value in dominance.ratio.items()},
        "temperature": {name: value.numpy() for name, value in dominance.temperature.items()},
    }


def _contiguous(arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return arrays whose bytes are in the order that safetensors takes them for.

    NumPy's scalars become arrays.
    """
    return {name: np.asarray(value, order="C") for name, value in arrays.items()}


def _from_parts(
    described: Mapping[str, Any], parts: Mapping[str, Mapping[str, AnyArray]]
) -> Checkpoint:
    tensors = {
        part: {name: torch.from_numpy(value) for name, value in parts[part].items()}
        for part in ("ratio", "temperature")
    }
    dominance = Dominance(described["dominant"], tensors["ratio"], tensors["temperature"])
    state = ServerState(dominance, parts["method"], parts["optimizer"])
    run_config, versions, num_nodes = (
        described["run-config"],
        described["versions"],
        described.get("num-nodes"),
    )

    return Checkpoint(
        described["round"],
        parts["arrays"],
        parts["average"],
        state,
        run_config,
        versions,
        num_nodes,
    )
