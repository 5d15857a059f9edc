"""Who teaches at which temperatures.

From class statistics to the dominant modality, and how far others lag behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedcmi_flwr.methods.losses import (
    class_ratio,
    class_temperature,
    dominant_modality,
    log_class_probability,
)
from fedcmi_flwr.types import ClassStats, Modality


@dataclass(frozen=True)
class Dominance:
    """Who teaches, and at which temperatures.

    Decided by the server, or by the node from its own statistics.
    """

    dominant: Modality | None
    """d; None: nobody teaches."""
    ratio: Mapping[Modality, Float[Tensor, " classes"]]
    """r_{m,c} of each weak modality; NaN where a class has no sample."""
    temperature: Mapping[Modality, Float[Tensor, " classes"]]
    """T_{m,c} of each weak modality, in (0, 1]; a modality that nobody measured is left out and
    has T = 1."""

    def to(self, device: torch.device) -> "Dominance":
        """Return the decision with its temperatures on ``device``, where every step needs them."""
        return replace(
            self, temperature={name: value.to(device) for name, value in self.temperature.items()}
        )


NOBODY = Dominance(None, {}, {})


def decide_dominance(
    stats: ClassStats, kappa: float, dominant: Modality | None = None
) -> Dominance:
    """Turn class statistics into the dominant modality and the class-wise temperatures of the weak
    ones.

    Parameters
    ----------
    stats
        Sums and counts of one node or of all nodes together.
    kappa
        Strength of the temperature adaptation, 0 or greater.
    dominant
        The modality to take as dominant; None: the one the statistics say.

    Returns
    -------
    The decision; ``NOBODY`` when fewer than two modalities have comparable statistics.
    """
    names = list(stats.count)
    if len(names) < 2:
        return NOBODY

    total = torch.stack([torch.from_numpy(stats.probability_sum[name]) for name in names])
    count = torch.stack([torch.from_numpy(stats.count[name]).to(total.dtype) for name in names])
    log_p = log_class_probability(total, count)
    measured = [bool(row.any()) for row in count > 0]
    d = names.index(dominant) if dominant is not None else dominant_modality(log_p, measured)
    if d is None:
        return NOBODY

    weak = [index for index, seen in enumerate(measured) if seen and index != d]
    ratio = {names[index]: class_ratio(log_p[d], log_p[index]) for index in weak}
    temperature = {name: class_temperature(value, kappa) for name, value in ratio.items()}

    return Dominance(names[d], ratio, temperature)
