"""Stochastic gradient descent, step for step that of ``torch.optim.SGD``, ready as soon as torch
is.

That class imports torch's compiler at its first step. It takes about as long as torch itself,
which a device would pay for every message, since each is answered by a process of its own, and a
simulation in every one of its processes.
"""

from collections.abc import Iterable

import torch
from torch.optim.sgd import sgd


class SGD:
    """SGD with momentum and weight decay over one group of parameters.

    Parameters
    ----------
    parameters
        What is trained, all on one device.
    lr
        Learning rate.
    momentum
        Share of the last step that goes into the next.
    weight_decay
        This many times the weight is added to its gradient.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.param_groups = [{"lr": lr, "momentum": momentum}]
        """What :class:`LocalObjective` reads of any optimiser."""
        self._velocities: dict[torch.Tensor, torch.Tensor | None] = {}
        """Parameter -> its momentum, from its first step on."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take a step with each parameter that has a gradient."""
        moved: list[torch.Tensor] = [
            parameter for parameter in self.parameters if parameter.grad is not None
        ]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        velocities = [self._velocities.get(parameter) for parameter in moved]
        on_gpu = self.parameters[0].device.type == "cuda"  # on a CPU the fused one rounds otherwise

        with torch.no_grad():
            sgd(
                moved,
                gradients,
                velocities,
                fused=on_gpu,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                dampening=0,
                nesterov=False,
                maximize=False,
            )

        self._velocities |= dict(zip(moved, velocities, strict=True))
