"""One round in one call."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from flwr.app import Context, Message
from torch import nn

from fedcmi_flwr.client.calls import moved
from fedcmi_flwr.client.objective import LocalObjective
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.client.wrapped import WrappedModel


def train_round(
    message: Message,
    context: Context,
    model: nn.Module,
    samples: Iterable[Any] | Callable[[], Iterable[Any]],
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    epochs: int = 1,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Message:
    """Train the received model for one round of the server's method, and return the reply.

    Parameters
    ----------
    message
        The train message.
    context
        Flower's, of the node.
    model
        On the device where it is trained: one of :func:`wrap`, or any module that a method can
        read.
    samples
        As for :meth:`LocalObjective.from_message`.
    lr
        Learning rate of SGD.
    momentum
        Of SGD.
    epochs
        Passes over the samples, 1 or more.
    optimizer
        Makes another optimiser than SGD from the trained parameters.
    metrics
        Numbers of your own, which go along.

    Returns
    -------
    The reply.
    """
    objective = LocalObjective.from_message(message, model, context, samples=samples)
    trained = list(objective.model.trained_parameters().values())
    chosen = optimizer(trained) if optimizer else SGD(trained, lr=lr, momentum=momentum)
    device = trained[0].device

    model.train()
    begin, seen = time.perf_counter(), 0
    for _ in range(epochs):
        for inputs, labels, *present in samples() if callable(samples) else samples:
            call = moved(inputs if isinstance(inputs, tuple) else (inputs,), device)
            masks = moved(present, device)
            loss = objective(_outputs(model, call, masks), labels.to(device), *masks)
            chosen.zero_grad()
            loss.backward()
            objective.step(chosen)
            seen += len(labels)

    return objective.reply(seen // epochs, metrics=metrics, seconds=time.perf_counter() - begin)


def _outputs(model: nn.Module, call: tuple[Any, ...], masks: list[torch.Tensor]) -> Any:  # noqa: ANN401
    """Call the model; one that is wrapped is told what each sample has."""
    return model(*call, *masks) if isinstance(model, WrappedModel) else model(*call)
