"""What a method keeps on a node from one of its turns to the next: in Flower's context, or in the run's directory."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context

from client_app.node import Node
from fedcmi_flwr.simulation.node_memory import DIRECTORY, keep_file_memory, read_file_memory
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

MEMORY = "method-memory"
"""Record of the node's state in Flower's context."""


def recall(context: Context, node: Node, server_round: int) -> dict[str, torch.Tensor]:
    """Return what the method kept on this node in its last turn of this run; empty where it had none."""
    if node.run.checkpoints.node_memory == "run-dir":
        return read_file_memory(_directory(node), node.config.partition_id, server_round)
    return read_memory(context)


def remember(context: Context, node: Node, server_round: int, memory: Mapping[str, torch.Tensor]) -> None:
    """Keep arrays on this node until its next turn."""
    if node.run.checkpoints.node_memory == "run-dir":
        keep_file_memory(_directory(node), node.config.partition_id, server_round, memory)
    elif memory:
        arrays = {name: Array(value) for name, value in to_arrays(memory).items()}
        context.state[MEMORY] = ArrayRecord(arrays)


def read_memory(context: Context) -> dict[str, torch.Tensor]:
    """Return what the method kept in Flower's context."""
    record = context.state.get(MEMORY)
    if not isinstance(record, ArrayRecord):
        return {}
    return to_state_dict({name: array.numpy() for name, array in record.items()})


def _directory(node: Node) -> Path:
    return Path(node.run.run_dir) / DIRECTORY
