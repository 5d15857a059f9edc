"""What a method keeps on a node from one of its turns to the next.

In Flower's context, or in the run's directory.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import Context

from client_app.node import Node
from fedcmi_flwr.client.memory import keep_memory, read_memory
from fedcmi_flwr.simulation.node_memory import DIRECTORY, keep_file_memory, read_file_memory


def recall(context: Context, node: Node, server_round: int) -> dict[str, torch.Tensor]:
    """Return what the method kept on this node in its last turn of this run.

    Empty where it had none.
    """
    if node.run.checkpoints.node_memory == "run-dir":
        return read_file_memory(_directory(node), node.config.partition_id, server_round)
    return read_memory(context)


def remember(
    context: Context, node: Node, server_round: int, memory: Mapping[str, torch.Tensor]
) -> None:
    """Keep arrays on this node until its next turn."""
    if node.run.checkpoints.node_memory == "run-dir":
        keep_file_memory(_directory(node), node.config.partition_id, server_round, memory)
    else:
        keep_memory(context, memory)


def _directory(node: Node) -> Path:
    return Path(node.run.run_dir) / DIRECTORY
