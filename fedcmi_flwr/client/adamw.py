"""AdamW (Loshchilov and Hutter, ICLR 2019), step for step that of ``torch.optim.AdamW``.

It stands beside :class:`fedcmi_flwr.client.sgd.SGD` for the same reason: torch's class is slow
to import.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
"""Decay of the means of the gradient and of its square: torch's defaults."""
EPSILON = 1e-8
"""Added to the root of the second: torch's default."""


class Moments(NamedTuple):
    """What AdamW keeps of one parameter."""

    mean: torch.Tensor
    """Moving average of the gradient, like the parameter."""
    square: torch.Tensor
    """Moving average of its square, like the parameter."""
    steps: torch.Tensor
    """Steps that the parameter has taken, a scalar of float32."""


class AdamW:
    """AdamW over one group of parameters.

    What it keeps begins at zero with each new one, so with each round.

    Parameters
    ----------
    parameters
        What is trained, all on one device.
    lr
        Learning rate.
    weight_decay
        Before each step weights shrink by this share times the learning rate; it is not part of
        the gradient.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.param_groups = [{"lr": lr, "betas": BETAS}]
        """What :class:`LocalObjective` reads of any optimiser."""
        self._moments: dict[torch.Tensor, Moments] = {}
        """Parameter -> its moments, from its first step on."""

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
        on_gpu = self.parameters[0].device.type == "cuda"  # as for SGD
        moments = [self._moments_of(parameter, on_gpu) for parameter in moved]

        with torch.no_grad():
            adam(
                moved,
                gradients,
                [each.mean for each in moments],
                [each.square for each in moments],
                [],
                [each.steps for each in moments],
                fused=on_gpu,
                decoupled_weight_decay=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.lr,
                weight_decay=self.weight_decay,
                eps=EPSILON,
                maximize=False,
            )

    def _moments_of(self, parameter: torch.Tensor, on_gpu: bool) -> Moments:
        if parameter not in self._moments:
            where = parameter.device if on_gpu else torch.device("cpu")
            steps = torch.zeros((), dtype=torch.float32, device=where)
            self._moments[parameter] = Moments(
                torch.zeros_like(parameter), torch.zeros_like(parameter), steps
            )

        return self._moments[parameter]
