"""What a round's loss terms add up to."""

import math
from typing import Any

import torch

from fedcmi_flwr.types import LossTerms


class RunningLosses:
    """Sums of loss terms over samples; they stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: LossTerms, samples: int) -> None:
        """Add a batch's mean terms, weighted by its samples."""
        for name, value in terms.values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() * samples
            self.counts[name] = self.counts.get(name, 0) + samples

    def sums(self) -> dict[str, float]:
        """Return the sums as numbers, in one transfer."""
        names, totals = list(self.totals), list(self.totals.values())
        return dict(zip(names, torch.stack(totals).tolist(), strict=True)) if names else {}

    def check(self, epoch: int, lr: Any) -> None:  # noqa: ANN401
        """Raise FloatingPointError when a term is no longer finite."""
        broken = [name for name, total in self.sums().items() if not math.isfinite(total)]
        if broken:
            raise FloatingPointError(
                f"training diverged: loss term {broken[0]!r} is not finite after local epoch "
                f"{epoch + 1}. Lower lr ({lr}) or the term's weight; with kd, turn on "
                "kd-temperature-scaling."
            )
