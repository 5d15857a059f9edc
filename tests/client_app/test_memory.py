"""What a method keeps on a node.

The next turn has it, in Flower's context or in the run's directory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import Parts, node_configs
from flwr.app import Context, RecordDict

from client_app.memory import recall, remember
from client_app.node import Node, read_node
from fedcmi_flwr.client.memory import MEMORY, read_memory
from fedcmi_flwr.simulation.node_memory import DIRECTORY

KEPT = {"control": torch.tensor([0.5, -2.0]), "turns": torch.tensor(3)}


@pytest.fixture
def node(federate: Callable[..., Parts]) -> Callable[..., tuple[Context, Node]]:
    """Return a maker of a context that is new to a node, and the node.

    ``changes`` are run-config keys.
    """
    federation, _, _ = federate(node_configs("audio"))

    def make(**changes: Any) -> tuple[Context, Node]:
        raw = {
            **federation.config.raw,
            **{key.replace("_", "-"): value for key, value in changes.items()},
        }
        context = Context(1, 1, node_configs("audio", "visual")[1], RecordDict(), raw)
        return context, read_node(context)

    return make


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


def test_the_context_keeps_copies_until_the_next_turn(
    node: Callable[..., tuple[Context, Node]],
) -> None:
    context, me = node()
    assert recall(context, me, 1) == {}
    kept = {name: value.clone() for name, value in KEPT.items()}
    remember(context, me, 1, kept)
    kept["control"].zero_()
    assert _same(recall(context, me, 2), KEPT)
    remember(context, me, 2, {"turns": torch.tensor(4)})
    assert _same(recall(context, me, 3), {"turns": torch.tensor(4)})


def test_a_method_without_memory_leaves_no_record(
    node: Callable[..., tuple[Context, Node]],
) -> None:
    context, me = node()
    remember(context, me, 1, {})
    assert MEMORY not in context.state
    assert read_memory(context) == {}


def test_a_runs_directory_keeps_every_turn_and_the_context_none(
    node: Callable[..., tuple[Context, Node]], tmp_path: Path
) -> None:
    """Another process of the node, whose context is new, has it too.

    A round that is done again has the turn before.
    """
    keys = {"node_memory": "run-dir", "run_dir": str(tmp_path / "kept")}
    context, me = node(**keys)
    remember(context, me, 1, KEPT)
    remember(context, me, 2, {"turns": torch.tensor(4)})
    assert MEMORY not in context.state
    assert [path.name for path in (tmp_path / "kept" / DIRECTORY).iterdir()] == ["partition-1"]
    other, again = node(**keys)
    assert _same(recall(other, again, 2), KEPT)
    assert _same(recall(other, again, 3), {"turns": torch.tensor(4)})
