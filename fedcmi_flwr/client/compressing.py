"""Compressing a node's update, and keeping what was left out for its next one."""

from collections.abc import Mapping

import numpy as np
import torch

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire import Task, to_arrays
from fedcmi_flwr.wire.compression import Compressed, compress, compressible

RESIDUAL = "residual/"
"""Start of the names in a node's memory of what compression left out."""

Memory = dict[str, torch.Tensor]


def split_memory(memory: Mapping[str, torch.Tensor]) -> tuple[Memory, Memory]:
    """Split a node's memory into the method's arrays and what compression left out."""
    of_method = {name: value for name, value in memory.items() if not name.startswith(RESIDUAL)}
    residual = {name: value for name, value in memory.items() if name.startswith(RESIDUAL)}
    return of_method, residual


def asks_for_compression(task: Task) -> bool:
    """Return whether the server wants compressed updates."""
    return bool(task.config.get("update-compression", "none") != "none")


def compress_update(
    task: Task, trained: Mapping[str, AnyArray], residual: Mapping[str, torch.Tensor]
) -> tuple[Compressed | None, Memory]:
    """Compress what a round changed, as the server asks for.

    Parameters
    ----------
    task
        The server's; its ``config`` says whether and how.
    trained
        Name -> array after training.
    residual
        What the last compression on this node left out, from :func:`split_memory`.

    Returns
    -------
    The compressed update, None where nothing is compressed, and what it leaves out.
    """
    if not asks_for_compression(task):
        return None, {}

    names = compressible(task.arrays)
    if not names:
        return None, {}

    left = to_arrays(residual)
    update: dict[str, AnyArray] = {}
    for name in names:
        update[name] = np.subtract(trained[name], task.arrays[name])
        before = left.get(f"{RESIDUAL}{name}")
        if before is not None and before.shape == update[name].shape:
            update[name] = np.add(update[name], before)

    compressed = compress(
        update, str(task.config["update-compression"]), float(task.config["top-k-share"])
    )
    rest = {
        f"{RESIDUAL}{name}": torch.from_numpy(np.subtract(update[name], compressed.update[name]))
        for name in names
    }

    return compressed, rest
