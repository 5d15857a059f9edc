"""Federations of the real ClientApp on av-digits, between rounds."""

from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, RecordDict

from client_app.app import app
from client_app.node import Node, read_node
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.wire.tensors import to_arrays
from server_app.launch import start as launch
from server_app.run.directory import RunDirectory
from server_app.run.federation import Federation

Parts = tuple[Federation, LocalGrid, ArrayRecord]


def federate(directory: Path, data: Path, nodes: list[dict[str, Any]], **changes: object) -> Parts:
    """Return a federation with given node-configs, its grid and its initial arrays.

    ``changes`` are run-config keys.
    """
    options: dict[str, Any] = {
        "data": str(data),
        "local-epochs": 1,
        "fraction-train": 1.0,
        "min-available-nodes": 1,
    }
    raw = launch.resolve(
        None, options | {key.replace("_", "-"): value for key, value in changes.items()}, []
    )
    federation = Federation(launch.read_run_config(raw), RunDirectory(directory))
    arrays = {
        name: Array(value) for name, value in to_arrays(federation.model.state_dict()).items()
    }
    return federation, LocalGrid(app, nodes, raw), ArrayRecord(arrays)


def node_configs(*modalities: str, parts: int = 12) -> list[dict[str, Any]]:
    """Return the node-configs of the first partitions, which own these modalities."""
    return [
        {"partition-id": i, "num-partitions": parts, "modalities": text}
        for i, text in enumerate(modalities)
    ]


def node_of(raw: dict[str, Any], node_config: dict[str, Any]) -> Node:
    """Return the node of a run-config and a node-config."""
    return read_node(Context(1, 1, node_config, RecordDict(), raw))
