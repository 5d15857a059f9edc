"""Nodes without a query handler that say in their node-config what they own.

They train that alone.
"""

from collections.abc import Iterator

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedcmi_flwr import FedCMI
from fedcmi_flwr.client import WrappedModel, train_round, wrap
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.testing import run_in_process

Batches = Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]


def new_model() -> WrappedModel:
    return wrap({name: torch.nn.Linear(3, 4) for name in ("left", "right")}, 2, embedding_dim=4)


def batches(owned: list[str]) -> Batches:
    labels = torch.arange(8) % 2
    yield {name: torch.randn(8, 3) + labels[:, None] for name in owned}, labels


def apps(strategies: list[FedCMI], method: str = "fedcmi") -> tuple[ServerApp, ClientApp]:
    """Return an app whose nodes have batches of what their node-config says.

    ``strategies`` gets the server's.
    """
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        owned = str(context.node_config.get("modalities", "left+right")).split("+")
        return train_round(message, context, new_model(), lambda: batches(owned))

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        model = new_model()
        strategies.append(FedCMI(model.groups, 2, method))
        strategies[0].start(grid, ArrayRecord(model.state_dict()), num_rounds=2)

    return server, client


def test_a_node_trains_what_it_declares() -> None:
    found: list[FedCMI] = []
    run_in_process(
        *apps(found), 3, node_configs=[{}, {"modalities": "left"}, {"modalities": "right"}]
    )
    (strategy,) = found
    assert strategy.report.refused == []
    assert strategy.report.owners == {"left": [0, 1], "right": [0, 2], "shared": [0, 1, 2]}
    assert {name: int(count.sum()) for name, count in strategy.report.stats.count.items()} == {
        "left": 16,
        "right": 16,
    }
    sent = [info.modalities for info, _ in strategy.report.plan.sent.values()]
    assert sent == [("left", "right"), ("left",), ("right",)]


def test_a_modality_that_nobody_knows_is_named_with_those_that_were_sent() -> None:
    with pytest.raises(
        RoundFailedError, match=r"modalities = 'lefft': 'lefft' was not sent.*\['left', 'right'\]"
    ):
        run_in_process(*apps([]), 2, node_configs=[{"modalities": "lefft"}] * 2)
