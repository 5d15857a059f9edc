"""Fusion heads, and what fills the slots of missing modalities.

Shapes: slots, u and q [batch, modalities, dim]; logits [batch, classes].
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedcmi_flwr.lookup import Kind


class ConcatFusion(nn.Module):
    """F(u) = W [u_1; ...; u_M] + b."""

    def __init__(self, num_modalities: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_modalities * dim, num_classes)

    def forward(
        self, slots: Float[Tensor, "batch modalities dim"]
    ) -> Float[Tensor, "batch classes"]:
        """Return fused logits."""
        logits: Tensor = self.output(slots.flatten(1))
        return logits


class SumFusion(nn.Module):
    """F(u) = sum_m (W_m u_m + b_m)."""

    def __init__(self, num_modalities: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(num_modalities))

    def forward(
        self, slots: Float[Tensor, "batch modalities dim"]
    ) -> Float[Tensor, "batch classes"]:
        """Return fused logits."""
        logits = [output(slot) for output, slot in zip(self.outputs, slots.unbind(1), strict=True)]
        return torch.stack(logits).sum(0)


class FilmFusion(nn.Module):
    """Feature-wise linear modulation (Perez et al., AAAI 2018).

    Each slot in turn scales and shifts the last one.
    """

    def __init__(self, num_modalities: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.conditions = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(num_modalities - 1))
        self.output = nn.Linear(dim, num_classes)

    def forward(
        self, slots: Float[Tensor, "batch modalities dim"]
    ) -> Float[Tensor, "batch classes"]:
        """Return fused logits."""
        *conditioning, hidden = slots.unbind(1)
        for condition, slot in zip(self.conditions, conditioning, strict=True):
            scale, shift = condition(slot).chunk(2, dim=1)
            hidden = scale * hidden + shift

        logits: Tensor = self.output(hidden)

        return logits


class GatedFusion(nn.Module):
    """Gated multimodal unit (Arevalo et al., 2017).

    sum_m sigmoid(G_m u_m) * (V_m u_m), then linear.
    """

    def __init__(self, num_modalities: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_modalities))
        self.values = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_modalities))
        self.output = nn.Linear(dim, num_classes)

    def forward(
        self, slots: Float[Tensor, "batch modalities dim"]
    ) -> Float[Tensor, "batch classes"]:
        """Return fused logits."""
        rows = zip(self.gates, self.values, slots.unbind(1), strict=True)
        hidden = [torch.sigmoid(gate(slot)) * value(slot) for gate, value, slot in rows]
        logits: Tensor = self.output(torch.stack(hidden).sum(0))

        return logits


FUSIONS: dict[str, type[nn.Module]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "film": FilmFusion,
    "gated": GatedFusion,
}
"""Name -> class that takes the number of modalities, D and C."""


def _accept(found: Any) -> type[nn.Module]:  # noqa: ANN401
    """Return a class of modules."""
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise TypeError(
            "a fusion head is a class derived from torch.nn.Module, as those in models/fusion.py."
        )
    return found


FUSION = Kind("fusion", "fedcmi.fusions", FUSIONS, _accept)


def fill_slots(
    u: Float[Tensor, "batch modalities dim"],
    q: Float[Tensor, "batch modalities dim"],
    present: Bool[Tensor, "batch modalities"],
) -> Float[Tensor, "batch modalities dim"]:
    """Return the fusion head's input.

    It is u where a modality is present, else the mean of the present modalities' q.

    With two modalities the fill is the other one's q; q = 0 gives zero filling. A sample without
    any modality is filled with zeros.
    """
    weight = present.to(q.dtype).unsqueeze(2)
    fill = (weight * q).sum(1) / weight.sum(1).clamp(min=1)
    return torch.where(present.unsqueeze(2), u, fill.unsqueeze(1))
