"""Flower's own differential privacy round the strategy.

Its mods on the nodes, its wrappers on the server.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from fedcmi_flwr import FedCMI, wire
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.testing import run_in_process

CLIP, NOISE, NODES = 0.01, 1e-6, 2
WRAPPERS: Mapping[str, tuple[Callable[[Any], Strategy], list[Any]]] = {
    "server, fixed": (
        lambda s: DifferentialPrivacyServerSideFixedClipping(s, NOISE, CLIP, NODES),
        [],
    ),
    "server, adaptive": (
        lambda s: DifferentialPrivacyServerSideAdaptiveClipping(s, NOISE, NODES, CLIP),
        [],
    ),
    "client, fixed": (
        lambda s: DifferentialPrivacyClientSideFixedClipping(s, NOISE, CLIP, NODES),
        [fixedclipping_mod],
    ),
    "client, adaptive": (
        lambda s: DifferentialPrivacyClientSideAdaptiveClipping(s, NOISE, NODES, CLIP),
        [adaptiveclipping_mod],
    ),
    "none": (lambda s: s, [LocalDpMod(CLIP, NOISE, 1.0, 1e-5)]),
}


def new_model() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({name: torch.nn.Linear(3, 2) for name in ("left", "right")})


def client(
    mods: list[Any], query: bool = False, packing: str = wire.FLAT, owned: tuple[str, ...] = ()
) -> ClientApp:
    """Return a node that adds 1 to every weight, with or without a query handler.

    ``owned`` is what node 1 owns.
    """
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        task = wire.read_task(message)
        return wire.train_reply(
            message, {name: value + 1 for name, value in task.arrays.items()}, 4
        )

    if query:

        @app.query()
        def answer(message: Message, context: Context) -> Message:
            part = int(context.node_config["partition-id"])
            return wire.query_reply(
                message,
                wire.NodeInfo(owned if part and owned else ("left", "right"), part, packing),
            )

    return app


def server(wrapped: Callable[[Any], Strategy], method: str = "fedavg") -> ServerApp:
    """Return a server of one round that leaves the new weights."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        zeros = {name: torch.zeros_like(value) for name, value in new_model().state_dict().items()}
        strategy = FedCMI({"left": ["left."], "right": ["right."]}, 2, method)
        result = wrapped(strategy).start(grid, ArrayRecord(zeros), num_rounds=1)
        context.state["arrays"] = result.arrays

    return app


@pytest.mark.parametrize("query", [False, True], ids=["plain node", "node that answers the query"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_updates_are_clipped(name: str, query: bool) -> None:
    """Each node's update has the norm 4; clipped to 0.01, their mean has that norm."""
    wrapped, mods = WRAPPERS[name]
    packing = wire.PLAIN if name == "none" else wire.FLAT
    found = run_in_process(server(wrapped), client(mods, query, packing), NODES).server.state[
        "arrays"
    ]
    norm = np.sqrt(sum(float(np.square(array.numpy()).sum()) for array in found.values()))
    assert norm == pytest.approx(CLIP, rel=0.01)


def test_what_a_wrapper_would_misread_is_refused_before_the_first_round() -> None:
    wrapped, _ = WRAPPERS["server, fixed"]
    with pytest.raises(ValueError, match="send arrays of their own"):
        run_in_process(server(wrapped, "scaffold"), client([]), NODES)
    with pytest.raises(RoundFailedError, match=r"node 1002 owns \['left'\] only.*privacy=Privacy"):
        run_in_process(server(wrapped), client([], query=True, owned=("left",)), NODES)


def test_without_a_wrapper_the_fast_path_stays() -> None:
    seen: list[set[str]] = []

    def look(message: Message, context: Context, call_next: Any) -> Message:
        seen.append(set(message.content))
        reply: Message = call_next(message, context)
        return reply

    run_in_process(server(lambda s: s), client([look], query=True), NODES)
    assert all({"arrays", "layout", "config"} <= records for records in seen)
