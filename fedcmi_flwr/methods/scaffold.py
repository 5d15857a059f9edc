"""SCAFFOLD (Karimireddy et al., ICML 2020), option II: control variates against client drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedcmi_flwr.methods.base import Method
from fedcmi_flwr.methods.local import Kept, LocalRound, LocalSteps
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import AnyArray, Modality


class Controls(NamedTuple):
    """Control variates of the model's parameters, in the order of
    ``model.trained_parameters()``.
    """

    server: list[Tensor]
    """c."""
    node: list[Tensor]
    """c_k."""


@dataclass(frozen=True, kw_only=True)
class Scaffold(Method):
    """CE(F) with gradient g - c_k + c.

    c_k+ = c_k - c + (w_global - w_k) / (steps * lr), where steps counts plain steps: with
    momentum each goes up to 1 / (1 - momentum) times as far (:func:`effective_steps`). On the
    server, for each parameter, c += (nodes that sent it / nodes that own it) * mean(c_k+ - c_k).
    Buffers have no control variate.
    """

    @property
    def needs_sgd(self) -> str:
        """Say what c_k+ rests on."""
        return "computes its control variates from the length of SGD's steps"

    def for_node(
        self, state: Mapping[str, AnyArray], modalities: Sequence[Modality], names: Sequence[str]
    ) -> dict[str, AnyArray]:
        """Return c of the parameters that the node is sent."""
        return {name: state[name] for name in names if name in state}

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> Controls:
        """Return c and c_k; zeros where there is none yet."""
        parameters = model.trained_parameters()
        server = [
            received.get(name, torch.zeros_like(value)).to(value)
            for name, value in parameters.items()
        ]
        node = [
            memory.get(name, torch.zeros_like(value)).to(value)
            for name, value in parameters.items()
        ]

        return Controls(server, node)

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Add c - c_k."""
        super().adjust_gradients(model, local)
        for parameter, server, node in zip(
            model.trained_parameters().values(), *local.method_state, strict=True
        ):
            if parameter.grad is not None:
                parameter.grad += server - node

    def finish(self, model: MultimodalModel, local: LocalRound, steps: LocalSteps) -> Kept:
        """Keep c_k+; the server gets c_k+ - c_k.

        A round at lr 0 says nothing about gradients: c_k stays.
        """
        if steps.lr == 0:
            node = dict(zip(model.trained_parameters(), local.method_state.node, strict=True))
            return Kept({name: torch.zeros_like(value) for name, value in node.items()}, node)

        scale = 1 / (effective_steps(steps) * steps.lr)
        delta, memory = {}, {}
        rows = zip(
            model.trained_parameters().items(),
            local.global_parameters,
            *local.method_state,
            strict=True,
        )
        for (name, parameter), start, server, node in rows:
            delta[name] = (start - parameter.detach()) * scale - server
            memory[name] = node + delta[name]

        return Kept(delta, memory)

    def check_reply(
        self,
        reply: Mapping[str, AnyArray],
        sent: Mapping[str, AnyArray],
        modalities: Sequence[Modality],
        num_classes: int,
        num_examples: int,
    ) -> None:
        """Raise ValueError unless there are arrays, each like one that the node was sent."""
        if not reply:
            raise ValueError("the changes of the control variates are missing.")
        for name, array in reply.items():
            if (
                name not in sent
                or sent[name].shape != array.shape
                or sent[name].dtype != array.dtype
            ):
                raise ValueError(
                    f"{name!r}, {array.dtype} {list(array.shape)}, is no array that the node was "
                    "sent."
                )

    def without_memory(self, state: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return nothing: c is the mean of the nodes' c_k, which are zeros again."""
        return {}

    def combine(
        self,
        state: Mapping[str, AnyArray],
        replies: Sequence[Mapping[str, AnyArray]],
        owners: Mapping[str, int],
    ) -> dict[str, AnyArray]:
        """Return c + sum(c_k+ - c_k) / owners."""
        combined = dict(state)
        for name in dict.fromkeys(name for reply in replies for name in reply):
            total = sum(
                np.asarray(reply[name], dtype=np.float64) for reply in replies if name in reply
            )
            before = np.asarray(state[name], dtype=np.float64) if name in state else 0.0
            combined[name] = np.asarray(before + total / owners[name], dtype=np.float32)

        return combined


def effective_steps(steps: LocalSteps) -> float:
    """Return how many plain steps of the same lr go as far under a constant gradient.

    The steps without momentum.

    Parameters
    ----------
    steps
        What was done in the round.

    Returns
    -------
    Equivalent number of plain steps, at least ``steps.count``.

    Examples
    --------
    >>> effective_steps(LocalSteps(3, 0.1, momentum=0.0))
    3.0
    >>> effective_steps(LocalSteps(2, 0.1, momentum=0.5))
    2.5
    """
    velocity = total = 0.0
    for _ in range(steps.count):
        velocity = steps.momentum * velocity + 1
        total += velocity

    return total


METHODS = {"scaffold": Scaffold()}
