"""What a deployment calls its nodes.

Lines about a node say its name instead of Flower's long number.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically

VARIABLE = "FEDCMI_NODE_NAMES"
"""Names the file, in the environment of the server's process; nobody sets it in a simulation."""


def write_names(path: Path, names: Mapping[int, str]) -> None:
    """Keep node id -> name, for :func:`called`."""
    write_atomically(path, json.dumps(names, indent=1) + "\n")


def read_names(path: Path) -> dict[int, str]:
    """Return what :func:`write_names` kept; empty where there is no such file yet."""
    try:
        return {
            int(node): str(name)
            for node, name in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except FileNotFoundError:
        return {}


def called(node: int, own: str = "") -> str:
    """Return what a line calls a node.

    Parameters
    ----------
    node
        Flower's id of it.
    own
        The name that it gives itself, which nothing proves.

    Returns
    -------
    Its name in the deployment, which the server knows by the node's key: "edge-2"; where it has
    none, "node 'edge-2'" of its own name, or "node 123".
    """
    path = os.environ.get(VARIABLE)
    names = read_names(Path(path)) if path else {}
    return names.get(node, f"node {own!r}" if own else f"node {node}")
