"""What somebody reads who puts a method into an app of their own, and leaves something out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor, nn

from fedcmi_flwr import FedCMI
from fedcmi_flwr.client import LocalObjective, wrap
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.testing import run_in_process

Train = Callable[[Message, Context], Message]
X, Y = torch.randn(8, 3), torch.arange(8) % 2
PLAIN = "plain"
"""A linear layer; else a wrapped model."""


def new_model(kind: str) -> nn.Module:
    if kind == PLAIN:
        return nn.ModuleDict({"image": nn.Linear(3, 2)})
    return wrap({"image": nn.Linear(3, 4)}, 2, embedding_dim=4)


def outcome(method: str, kind: str, train: Train) -> None:
    """Run two rounds on two nodes."""
    client, server = ClientApp(), ServerApp()
    client.train()(train)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        model = new_model(kind)
        groups = {"image": ["image."]} if kind == PLAIN else model.groups
        FedCMI(groups, 2, method).start(grid, ArrayRecord(model.state_dict()), num_rounds=2)

    run_in_process(server, client, 2)


def loop(
    kind: str, call: Callable[[nn.Module], Any], samples: object = None, step: bool = True, loss: bool = True,
    remember: bool = True,
) -> Train:  # fmt: skip
    """Return a node's training, with parts of it left out."""

    def train(message: Message, context: Context) -> Message:
        model = new_model(kind)
        objective = LocalObjective.from_message(message, model, context if remember else None, samples=samples)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        outputs = call(model)
        logits = outputs if isinstance(outputs, Tensor) else outputs.fused_logits
        found = objective(outputs, Y) if loss else nn.functional.cross_entropy(logits, Y)
        found.backward()
        if step:
            objective.step(optimizer)
        return objective.reply(len(Y))

    return train


def pairs() -> Iterator[tuple[Any, Tensor]]:
    yield {"image": X}, Y


def flowers_own(message: Message, context: Context) -> Message:
    """Return what a plain Flower client replies."""
    model = new_model(PLAIN)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 8})}
    return Message(RecordDict(content), reply_to=message)


def image(model: nn.Module) -> Any:  # noqa: ANN401
    return model["image"](X)


def wrapped(model: nn.Module) -> Any:  # noqa: ANN401
    return model({"image": X})


CASES: dict[str, tuple[str, str, Train, str]] = {
    "nothing applied": ("fedcmi", PLAIN, flowers_own, r"method 'fedcmi' was asked for, .*LocalObjective\.from_message"),
    "no samples": ("fedcmi", "", loop("", wrapped), r"method 'fedcmi' looks at the node's samples.*samples=loader"),
    "samples are mappings": ("fedcmi", "", loop("", wrapped, [{"x": X, "y": Y}]), r"a batch is dict, .*samples=lambda"),
    "samples of tensors": ("fedcmi", "", loop("", wrapped, [(X, Y)]), r"model\(\{'image': \.\.\.\}\); found Tensor"),
    "called with a tensor": (
        "fedprox",
        "",
        loop("", lambda model: model(X)),
        r"model\(\{'image': \.\.\.\}\); found Tensor",
    ),
    "another module called": ("fedprox", PLAIN, loop(PLAIN, image), r"call the very module that was handed over"),
    "no step": (
        "fedcmi",
        "",
        loop("", wrapped, pairs, step=False),
        r"call objective\.step\(optimizer\) after backward",
    ),
    "no loss": ("fedcmi", "", loop("", wrapped, pairs, loss=False), r"loss = objective\(model\(inputs\), labels\)"),
    "no context": ("scaffold", "", loop("", wrapped, pairs, remember=False), r"hand the context over"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_is_said_with_the_call_that_does_it(case: str) -> None:
    method, kind, train, text = CASES[case]
    with pytest.raises(RoundFailedError, match=rf"node 1001 .*{text}"):
        outcome(method, kind, train)


def test_flowers_names_that_there_are_not_are_suggested() -> None:
    with pytest.raises(TypeError, match=r"no argument 'fraction_trian'.*Did you mean 'fraction_train'"):
        FedCMI({"image": ["image."]}, 2, fraction_trian=0.5)
    assert FedCMI({"image": ["image."]}, 2, fraction_train=0.5, min_available_nodes=7).fraction_train == 0.5
