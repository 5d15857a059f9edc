"""Federated averaging with the focal loss (Lin et al., ICCV 2017).

Samples that are right already count less.
"""

from dataclasses import dataclass

from torch.nn.functional import cross_entropy

from fedcmi_flwr import LocalRound, LossTerms, Method
from fedcmi_flwr.config.fields import number
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, ModelOutput


@dataclass(frozen=True, kw_only=True)
class Focal(Method):
    """The mean of (1 - p)^focusing CE(F), where p is the probability of the true class."""

    focusing: float = number(0, default=2.0)
    """How much less they count; at 0 the method is FedAvg."""

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """What `fedcmi tune` tries."""
        return ("focusing", (0.5, 1.0, 2.0))

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return the focal loss of a batch."""
        loss = cross_entropy(output.fused_logits, batch.labels, reduction="none")
        missed = 1 - (-loss).exp()
        return LossTerms({"fused": (missed**self.focusing * loss).mean()})
