"""Server optimisers.

The average of what nodes trained is a step from the old weights, not the new weights.

Their arithmetic is, to the bit, that of Flower's strategies of the same names.
``group_optimizers.py`` gives each parameter group one of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.config.fields import Settings, number, text
from fedcmi_flwr.lookup import Kind, find

Floats = NDArray[Any]
"""An array of any floating-point dtype."""
Arrays = Mapping[str, Floats]
Moments = Mapping[str, Arrays]
"""Moment -> name of a weight -> array; empty before the first step."""

BETA_2 = 0.99
"""Decay of the second moment of FedAdam and FedYogi."""
TAU = 1e-3
"""What is added to the root of the second moment: the degree of adaptivity."""
VELOCITY = "momentum_vector"
"""Name of FedAvgM's moment in a checkpoint."""


class UpdateRule(ABC):
    """How an average becomes a step.

    Parameters
    ----------
    lr
        Learning rate of the server, above 0.
    momentum
        Decay of the first moment, in [0, 1).
    """

    default_lr: ClassVar[float]
    """Learning rate where none is given."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr = lr
        self.momentum = momentum

    @abstractmethod
    def step(
        self, count: int, old: Arrays, averaged: Arrays, moments: Moments
    ) -> tuple[Arrays, Moments]:
        """Return the new weights and moments.

        Parameters
        ----------
        count
            Of this step, from 1.
        old
            Name -> weights that the nodes trained from.
        averaged
            Name -> average of what they trained, of the same names, shapes and dtypes.
        moments
            Of the step before.

        Returns
        -------
        Name -> weights, which may be of a wider dtype; and the moments for the next step.
        """


class FedAvgM(UpdateRule):
    """Gradient descent with momentum, on the negative of the mean update (Hsu et al., 2019)."""

    default_lr = 1.0

    def step(
        self, count: int, old: Arrays, averaged: Arrays, moments: Moments
    ) -> tuple[Arrays, Moments]:
        """Return w - lr g, where g <- momentum g + (w - average)."""
        if self.lr == 1 and self.momentum == 0:
            return averaged, moments  # w - (w - average) would round

        # Checkpoints number the weights
        places = {str(place): name for place, name in enumerate(old)}
        gradient = {place: old[name] - averaged[name] for place, name in places.items()}
        if self.momentum > 0:
            if moments:
                before = moments[VELOCITY]
                gradient = {
                    place: self.momentum * before[place] + value
                    for place, value in gradient.items()
                }

            moments = {VELOCITY: gradient}

        return {
            name: old[name] - self.lr * gradient[place] for place, name in places.items()
        }, moments


class _Adaptive(UpdateRule):
    """What Adam and Yogi share (Reddi et al., ICLR 2021).

    Each weight's step is divided by how much it has changed.
    """

    default_lr = 0.01
    """A first step moves every weight by about as much."""

    def step(
        self, count: int, old: Arrays, averaged: Arrays, moments: Moments
    ) -> tuple[Arrays, Moments]:
        """Return w + rate m / (sqrt(v) + tau), where m and v are moving averages of the mean update
        and its square.
        """
        change = {name: averaged[name] - old[name] for name in old}
        zeros = {name: np.zeros_like(value) for name, value in averaged.items()}

        before = moments.get("m_t", zeros)
        first = {
            name: self.momentum * before[name] + (1 - self.momentum) * change[name] for name in old
        }
        before = moments.get("v_t", zeros)
        second = {name: self._second_moment(before[name], change[name] ** 2) for name in old}

        rate = self._rate(count)
        stepped = {
            name: old[name] + rate * first[name] / (np.sqrt(second[name]) + TAU) for name in old
        }

        return stepped, {"m_t": first, "v_t": second}

    @abstractmethod
    def _second_moment(self, before: Floats, squared: Floats) -> Floats:
        """Return v from the last v and the square of the mean update."""

    def _rate(self, count: int) -> float:
        return self.lr


class FedAdam(_Adaptive):
    """Adam on the server; the second moment decays at a constant rate."""

    def _second_moment(self, before: Floats, squared: Floats) -> Floats:
        return BETA_2 * before + (1 - BETA_2) * squared

    def _rate(self, count: int) -> float:
        """Return the bias-corrected rate, in double precision like everything that is multiplied by
        it.
        """
        first, second = (1 - np.power(beta, count + 1.0) for beta in (self.momentum, BETA_2))
        rate: np.float64 = self.lr * np.sqrt(second) / first
        return rate


class FedYogi(_Adaptive):
    """Yogi on the server.

    The second moment goes towards the square in steps that do not depend on its own size.
    """

    def _second_moment(self, before: Floats, squared: Floats) -> Floats:
        step: Floats = (1 - BETA_2) * squared * np.sign(before - squared)
        return before - step


RULES: Mapping[str, type[UpdateRule]] = {"fedavgm": FedAvgM, "fedadam": FedAdam, "fedyogi": FedYogi}
"""Name -> class; one from outside is found by its entry point or import path (``lookup.py``)."""


def _accept(found: Any) -> type[UpdateRule]:  # noqa: ANN401
    """Return a class of server optimisers."""
    if not (isinstance(found, type) and issubclass(found, UpdateRule)) or not hasattr(
        found, "default_lr"
    ):
        raise TypeError(
            "a server optimiser is a class derived from aggregation.optimizers.UpdateRule with "
            "default_lr."
        )
    return found


SERVER_OPTIMIZER = Kind("server-optimizer", "fedcmi.server_optimizers", RULES, _accept)


@dataclass(frozen=True)
class ServerOptimizer(Settings):
    """What the server does with each parameter group's average."""

    name: str = text(
        "'none' or the name of a server optimiser", key="server-optimizer", default="none"
    )
    """Takes the average as it is ("none"), or as a step of an optimiser: built in, an entry
    point of a package that is installed on the server, or "package.module:Name"."""
    lr: float = number(0, key="server-lr", default=0.0)
    """Learning rate of the server's optimiser; 0: its own, 1 for fedavgm, 0.01 for fedadam and
    fedyogi."""
    momentum: float = number(0, 1, below=True, key="server-momentum", default=0.9)
    """Momentum of fedavgm, beta_1 of fedadam and fedyogi."""

    @property
    def rule(self) -> UpdateRule | None:
        """The optimiser; None where averages are the new weights."""
        if self.name == "none":
            return None

        kind = find(SERVER_OPTIMIZER, self.name)
        return kind(self.lr or kind.default_lr, self.momentum)
