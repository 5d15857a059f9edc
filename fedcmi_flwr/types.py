"""The types that the whole package shares.

Modalities, batches, model outputs, loss terms, class statistics.

Shape legend used in the whole package: ``batch`` samples of a mini-batch, ``modalities`` of the
federation in their fixed order, ``classes``, ``dim`` the embedding size D.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

Modality = str
"""Name of an input stream: "audio", "visual", "text", any string; no code depends on it."""

AnyArray = NDArray[np.generic]
"""An array of any shape and dtype."""

Scalar = bool | int | float | str
"""What a key of a run-config may hold."""

SHARED = "shared"
"""Name of the parameter group that every node owns (the fusion head)."""


@dataclass(frozen=True)
class Batch:
    """A mini-batch of one node."""

    inputs: Mapping[Modality, Tensor]
    """[batch, *shape] per owned modality, normalised; rows of absent samples hold zeros."""
    labels: Int[Tensor, " batch"]
    present: Bool[Tensor, "batch modalities"]
    """Which modality each sample has, over all modalities of the federation."""
    complete: bool
    """True when every sample has every owned modality: then no row selection is needed."""
    indices: Int[Tensor, " batch"]
    """Each sample's index in the node's data, a key for what is kept of it."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on ``device``."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        labels, present, indices = (
            x.to(device, non_blocking=True) for x in (self.labels, self.present, self.indices)
        )
        return Batch(inputs, labels, present, self.complete, indices)


@dataclass(frozen=True)
class ModelOutput:
    """What the two-projector model computes for a batch; rows of absent samples hold zeros.

    A model without projectors has u = z, and no infiltration outputs; FedAvg's has no self
    logits either.
    """

    self_embeddings: Mapping[Modality, Float[Tensor, "batch dim"]]
    """u_m = P_m(z_m)."""
    infiltration_embeddings: Mapping[Modality, Float[Tensor, "batch dim"]]
    """q_m = Q_m(z_m)."""
    self_logits: Mapping[Modality, Float[Tensor, "batch classes"]]
    """H_m(u_m)."""
    infiltration_logits: Mapping[Modality, Float[Tensor, "batch classes"]]
    """H_m(q_m)."""
    fused_logits: Float[Tensor, "batch classes"]
    """F over the slots: u_m where present, else the fill of the present modalities' q; a
    unimodal model's summed log-probabilities."""


@dataclass(frozen=True)
class Votes:
    """Weights of the branches' heads beside the fusion head when a class is predicted.

    The class is the argmax of fusion * ln F + self_heads * sum_m ln H_m(u_m) +
    infiltration_heads * sum_m ln H_m(q_m) over the modalities that are used: the logarithm of a
    product of experts.
    """

    self_heads: float = 0.0
    infiltration_heads: float = 0.0
    fusion: float = 1.0


@dataclass(frozen=True)
class LossTerms:
    """Named loss terms with their weights.

    Weights and terms meet in :meth:`total` and nowhere else.
    """

    values: Mapping[str, Float[Tensor, ""]]
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each term; 1 where not stated."""

    def total(self) -> Float[Tensor, ""]:
        """Return the weighted sum, the scalar to differentiate."""
        weighted = [self.weights.get(name, 1.0) * value for name, value in self.values.items()]
        return torch.stack(weighted).sum()


@dataclass(frozen=True)
class ClassStats:
    """Sums and counts per class and modality; they add up over nodes and only the receiver divides.

    p_{m,c} = probability_sum / count. What they decide is in "The equations of FedCMI" of ``methods/README.md``.
    """

    probability_sum: Mapping[Modality, NDArray[np.float64]]
    """[classes]: sum of softmax(self logits)[true class] over the samples of the class, in [0,
    count]."""
    count: Mapping[Modality, NDArray[np.int64] | NDArray[np.float64]]
    """[classes]: number of samples of the class that have the modality; real numbers where noise
    was added."""

    def __add__(self, other: "ClassStats") -> "ClassStats":
        """Add the sums and counts of another node.

        Modalities that only one of both has are kept.
        """
        return ClassStats(
            _added(self.probability_sum, other.probability_sum), _added(self.count, other.count)
        )

    def only(self, modalities: Collection[Modality]) -> "ClassStats":
        """Return the statistics of these modalities alone."""
        kept = [name for name in self.count if name in modalities]
        return ClassStats(
            {name: self.probability_sum[name] for name in kept},
            {name: self.count[name] for name in kept},
        )


def _added(
    left: Mapping[Modality, NDArray[Any]], right: Mapping[Modality, NDArray[Any]]
) -> dict[Modality, NDArray[Any]]:
    total = dict(left)
    for name, value in right.items():
        total[name] = total[name] + value if name in total else value

    return total
