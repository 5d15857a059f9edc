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
    remember: bool = True, labels: object = Y, backward: bool = True, metrics: object = None,
) -> Train:  # fmt: skip
    """Return a node's training, with parts of it left out."""

    def train(message: Message, context: Context) -> Message:
        model = new_model(kind)
        objective = LocalObjective.from_message(
            message, model, context if remember else None, samples=samples
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        outputs = call(model)
        logits = outputs if isinstance(outputs, Tensor) else outputs.fused_logits
        found = objective(outputs, labels) if loss else nn.functional.cross_entropy(logits, Y)
        if backward:
            found.backward()
        if step:
            objective.step(optimizer)
        return objective.reply(len(Y), metrics=metrics)

    return train


def pairs() -> Iterator[tuple[Any, Tensor]]:
    yield {"image": X}, Y


def flowers_own(message: Message, context: Context) -> Message:
    """Return what a plain Flower client replies."""
    model = new_model(PLAIN)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": 8}),
    }
    return Message(RecordDict(content), reply_to=message)


def plain(
    change: Callable[[Tensor], Tensor] = lambda value: value,
    prefix: str = "",
    key: str = "num-examples",
    record: str = "metrics",
) -> Train:
    """Return a plain Flower client with one mistake."""

    def train(message: Message, context: Context) -> Message:
        model = new_model(PLAIN)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        state = {prefix + name: change(value) for name, value in model.state_dict().items()}
        content = {"arrays": ArrayRecord(state), record: MetricRecord({key: 8})}
        return Message(RecordDict(content), reply_to=message)

    return train


def image(model: nn.Module) -> Any:
    return model["image"](X)


def wrapped(model: nn.Module) -> Any:
    return model({"image": X})


CASES: dict[str, tuple[str, str, Train, str]] = {
    "nothing applied": (
        "fedcmi",
        PLAIN,
        flowers_own,
        r"method 'fedcmi' was asked for, .*LocalObjective\.from_message",
    ),
    "no samples": (
        "fedcmi",
        "",
        loop("", wrapped),
        r"method 'fedcmi' looks at the node's samples.*samples=loader",
    ),
    "samples are mappings": (
        "fedcmi",
        "",
        loop("", wrapped, [{"x": X, "y": Y}]),
        r"a batch is dict, .*samples=lambda",
    ),
    "samples of tensors": (
        "fedcmi",
        "",
        loop("", wrapped, [(X, Y)]),
        r"model\(\{'image': \.\.\.\}\); found Tensor",
    ),
    "called with a tensor": (
        "fedprox",
        "",
        loop("", lambda model: model(X)),
        r"model\(\{'image': \.\.\.\}\); found Tensor",
    ),
    "another module called": (
        "fedprox",
        PLAIN,
        loop(PLAIN, image),
        r"call the very module that was handed over",
    ),
    "no step": (
        "fedcmi",
        "",
        loop("", wrapped, pairs, step=False),
        r"call objective\.step\(optimizer\) after backward",
    ),
    "no loss": (
        "fedcmi",
        "",
        loop("", wrapped, pairs, loss=False),
        r"loss = objective\(model\(inputs\), labels\)",
    ),
    "nothing returned": (
        "fedavg",
        PLAIN,
        lambda message, context: None,
        r"train function returned NoneType.*reply",
    ),
    "float labels": (
        "fedprox",
        "",
        loop("", wrapped, labels=Y.float()),
        r"need integers.*float32; labels\.long\(\)",
    ),
    "truth values": ("fedprox", "", loop("", wrapped, labels=Y > 0), r"need integers.*bool"),
    "one-hot labels": (
        "fedprox",
        "",
        loop("", wrapped, labels=nn.functional.one_hot(Y)),
        r"\[8, 2\].*argmax\(1\)",
    ),
    "column of labels": (
        "fedprox",
        "",
        loop("", wrapped, labels=Y[:, None]),
        r"\[8, 1\].*squeeze\(1\)",
    ),
    "classes from 1": (
        "fedprox",
        "",
        loop("", wrapped, labels=Y + 1),
        r"from 1 to 2.*num_classes=2.*from 0",
    ),
    "a list": (
        "fedprox",
        "",
        loop("", wrapped, labels=Y.tolist()),
        r"need a tensor \[batch\].*found list",
    ),
    "samples' labels": (
        "fedcmi",
        "",
        loop("", wrapped, [({"image": X}, Y + 1)]),
        r"from 1 to 2.*num_classes=2",
    ),
    "other inputs": (
        "fedcmi",
        "",
        loop("", wrapped, [({"img": X}, Y)]),
        r"\['img'\].*\['image'\], named as in wrap",
    ),
    "no backward": (
        "fedprox",
        "",
        loop("", wrapped, backward=False),
        r"call loss\.backward\(\) before",
    ),
    "tensor as metric": (
        "fedprox",
        "",
        loop("", wrapped, metrics={"acc": torch.tensor(1.0)}),
        r"'acc' is a Tensor, need a number; float\(",
    ),
    "other class count": (
        "fedprox",
        PLAIN,
        loop(PLAIN, lambda model: X),
        r"\[8, 3\], need \[batch, 2\]",
    ),
    "NaN": (
        "fedavg",
        PLAIN,
        plain(lambda value: value * torch.nan),
        r"'image\.weight' holds NaN.*lower its learning",
    ),
    "Inf": (
        "fedavg",
        PLAIN,
        plain(lambda value: value / 0),
        r"'image\.\w+' holds NaN or Inf.*lower its learning",
    ),
    "other dtype": (
        "fedavg",
        PLAIN,
        plain(lambda value: value.half()),
        r"is float16 .*expected float32.*state_dict",
    ),
    "other names": (
        "fedavg",
        PLAIN,
        plain(prefix="model."),
        r"no modality of \['image'\] is whole.*state_dict",
    ),
    "other weight key": (
        "fedavg",
        PLAIN,
        plain(key="num_examples"),
        r"\['num_examples'\]; weighted_by_key",
    ),
    "other record": (
        "fedavg",
        PLAIN,
        plain(record="metric"),
        r"'metrics' is NoneType.*\['arrays', 'metric'\]",
    ),
    "no context": (
        "scaffold",
        "",
        loop("", wrapped, pairs, remember=False),
        r"hand the context over",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_is_said_with_the_call_that_does_it(case: str) -> None:
    method, kind, train, text = CASES[case]
    with pytest.raises(RoundFailedError, match=rf"node 1001 .*{text}"):
        outcome(method, kind, train)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_class_numbers_of_any_width_will_do(dtype: torch.dtype) -> None:
    outcome("fedcmi", "", loop("", wrapped, [({"image": X}, Y.to(dtype))], labels=Y.to(dtype)))


def test_flowers_names_that_there_are_not_are_suggested() -> None:
    with pytest.raises(
        TypeError, match=r"no argument 'fraction_trian'.*Did you mean 'fraction_train'"
    ):
        FedCMI({"image": ["image."]}, 2, fraction_trian=0.5)
    assert (
        FedCMI({"image": ["image."]}, 2, fraction_train=0.5, min_available_nodes=7).fraction_train
        == 0.5
    )
