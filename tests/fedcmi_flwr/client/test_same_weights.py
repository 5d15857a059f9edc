"""For every method, an own app through LocalObjective gives bit for bit the weights of the
project's client.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federated import Federated, federate
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from client_app.model import method_of, receive
from client_app.node import read_node
from client_app.samples import node_samples, task_samples
from client_app.train import new_optimizer
from fedcmi_flwr import wire
from fedcmi_flwr.client import LocalObjective
from fedcmi_flwr.config.sections import TrainingConfig, read_section
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.seeding import torch_generator
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.types import Batch

CPU = torch.device("cpu")
NODES = ["audio+visual", "audio", "visual"]


class Foreign(nn.Module):
    """Somebody's module of which methods know nothing: it takes tensors, and returns a mapping."""

    def __init__(self, inner: MultimodalModel) -> None:
        super().__init__()
        self.branches = inner.branches
        if hasattr(inner, "fusion"):
            self.fusion = inner.fusion
        self.__dict__["inner"] = inner

    def __deepcopy__(self, memo: dict[int, Any]) -> "Foreign":
        """Return a copy."""
        return Foreign(copy.deepcopy(self.inner, memo)).train(self.training)

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor) -> dict[str, Any]:
        """Return all outputs by name."""
        self.inner.train(self.training)
        labels = torch.zeros(len(present), dtype=torch.long)
        owned = [self.inner.spec.modalities.index(name) for name in inputs]
        complete = bool(present[:, owned].all())
        return vars(
            self.inner(Batch(inputs, labels, present, complete, torch.arange(len(present))))
        )

    def fuse(self, u: Any, q: Any, present: Tensor) -> Tensor:
        """Return the fused logits of what is present."""
        return self.inner.fuse(u, q, present)


def own_app(foreign: bool) -> ClientApp:
    """Return somebody's own app on the project's data: own loop, own optimiser, own loader."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        node = read_node(context)
        found = node_samples(node, "train", node.modalities)
        return wire.query_reply(
            message, wire.NodeInfo(found.seen_modalities, node.config.partition_id)
        )

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, node = wire.read_task(message), read_node(context)
        settings = read_section(TrainingConfig, task.config)
        samples = task_samples(node, "train", task)
        inner = receive(node, task, method_of(task))
        model = Foreign(inner) if foreign else inner

        def loader() -> Iterator[tuple[Any, Tensor, Tensor]]:
            for batch in samples.evaluation_batches(task.modalities, CPU):
                yield (
                    ((dict(batch.inputs), batch.present) if foreign else batch),
                    batch.labels,
                    batch.present,
                )

        objective = LocalObjective.from_message(message, model, context, samples=loader)
        optimizer = new_optimizer(inner, settings, settings.learning_rate(task.server_round))
        partition = node.config.partition_id
        order = torch_generator(settings.seed, "batches", task.server_round, partition)
        model.train()
        for epoch in range(settings.local_epochs):
            views = torch_generator(
                settings.seed, f"views, epoch {epoch}", task.server_round, partition
            )
            for batch in samples.training_batches(
                settings.batch_size, task.modalities, order, CPU, views
            ):
                outputs = model(dict(batch.inputs), batch.present) if foreign else model(batch)
                loss = objective(outputs, batch.labels, batch.present)
                optimizer.zero_grad()
                loss.backward()
                objective.step(optimizer)
        return objective.reply(len(samples), modality_examples=samples.modality_counts)

    return app


def rounds(run: Federated) -> dict[str, np.ndarray]:
    """Train for three rounds: two with a decision of the server's, and every node's second turn."""
    for server_round in (1, 2, 3):
        run.round(server_round)
        assert run.strategy.report.refused == []
    return run.arrays


@pytest.mark.parametrize("foreign", [False, True], ids=["the project's model", "any module"])
@pytest.mark.parametrize("name", METHODS)
def test_an_own_loop_gives_the_same_weights(
    tmp_path: Path, toy: Path, name: str, foreign: bool
) -> None:
    assert_same_weights(tmp_path, toy, foreign, {"method": name, "lr": 0.05})


@pytest.mark.parametrize("way", ["int8", "top-k"])
def test_an_own_loop_compresses_as_the_projects_client_does(
    tmp_path: Path, toy: Path, way: str
) -> None:
    """With SCAFFOLD, so that the node's memory holds the method's arrays beside what compression
    left out.
    """
    assert_same_weights(
        tmp_path, toy, True, {"method": "scaffold", "lr": 0.05, "update_compression": way}
    )


def assert_same_weights(tmp_path: Path, toy: Path, foreign: bool, options: dict[str, Any]) -> None:
    """Train with the project's client and with an own app, and compare the global weights bit for
    bit.
    """
    ours = federate(tmp_path / "ours", toy, NODES, **options)
    own = federate(tmp_path / "own", toy, NODES, ours.arrays, **options)
    own.grid = LocalGrid(own_app(foreign), [each.node_config for each in ours.grid.contexts.values()],
                         dict(own.federation.config.raw))  # fmt: skip
    expected, found = rounds(ours), rounds(own)
    assert {key: value.tobytes() for key, value in found.items()} == {
        key: value.tobytes() for key, value in expected.items()
    }


def test_the_test_sees_a_term_that_is_left_out(tmp_path: Path, toy: Path) -> None:
    """The methods differ after three rounds, so that the same weights are not those of FedAvg."""
    found = [
        rounds(federate(tmp_path / name, toy, NODES, method=name, lr=0.05))
        for name in ("fedavg", "fedprox")
    ]
    assert any(found[0][key].tobytes() != found[1][key].tobytes() for key in found[0])
