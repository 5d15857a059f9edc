"""Any Flower app as a function call.

Server and nodes in this process, without Ray, SuperLink or network.

run_in_process(server_app, client_app, num_nodes=4, run_config={"num-server-rounds": 3})
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedcmi_flwr.simulation.local_grid import LocalGrid


class _ListedReplies(LocalGrid):
    """The grid as Flower has it.

    Replies come as a list, which strategies go through more than once.
    """

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(super().send_and_receive(messages, timeout=timeout))


@dataclass(frozen=True)
class Finished:
    """What is left of a run."""

    server: Context
    """The server's; an app may have left something in its state."""
    nodes: Mapping[int, Context]
    """Node id -> the node's, in the order of the partitions."""


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    num_nodes: int = 2,
    run_config: Mapping[str, Any] | None = None,
    *,
    node_configs: Sequence[Mapping[str, Any]] | None = None,
) -> Finished:
    """Run an app's server to its end, each node one after the other, as ``flwr run`` would on Ray.

    Parameters
    ----------
    server_app
        With a main function.
    client_app
        What every node runs; an exception in it becomes an error reply, as with Flower.
    num_nodes
        How many there are, 1 or more; each gets its ``partition-id`` and ``num-partitions``.
    run_config
        The run-config that server and nodes see; unlike ``flwr run`` it takes no defaults from
        pyproject.toml.
    node_configs
        One more node-config a node, for keys of your own.

    Returns
    -------
    The contexts after the run.

    Raises
    ------
    ValueError
        No node, or another number of ``node_configs``.
    """
    own = list(node_configs) if node_configs is not None else [{} for _ in range(num_nodes)]
    if num_nodes < 1 or len(own) != num_nodes:
        raise ValueError(
            f"num_nodes = {num_nodes}, {len(own)} node_configs: need one for each of 1 or more "
            "nodes."
        )

    config = dict(run_config or {})
    numbered = [
        {"partition-id": part, "num-partitions": num_nodes, **each} for part, each in enumerate(own)
    ]

    grid = _ListedReplies(client_app, numbered, config)
    context = Context(1, 1, {}, RecordDict(), config)
    server_app(grid=grid, context=context)

    return Finished(context, grid.contexts)
