"""What a method keeps on a node from one of its turns to the next, in Flower's context."""

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, Context

from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

MEMORY = "method-memory"
"""Record of the node's state in Flower's context."""


def read_memory(context: Context) -> dict[str, torch.Tensor]:
    """Return what the method kept in Flower's context; empty where it had no turn yet."""
    record = context.state.get(MEMORY)
    if not isinstance(record, ArrayRecord):
        return {}

    return to_state_dict({name: array.numpy() for name, array in record.items()})


def keep_memory(context: Context, memory: Mapping[str, torch.Tensor]) -> None:
    """Keep tensors in Flower's context until the node's next turn."""
    if memory:
        arrays = {name: Array(value) for name, value in to_arrays(memory).items()}
        context.state[MEMORY] = ArrayRecord(arrays)
