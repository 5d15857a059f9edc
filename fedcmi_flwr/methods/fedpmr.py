"""FedPMR: prototypical modal rebalance (Fan et al., CVPR 2023) in every node's local training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcmi_flwr.methods.base import WeightedMethod, present_rows
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.methods.losses import true_class_probability
from fedcmi_flwr.methods.prototypes import (
    class_means,
    embedding_sums,
    prototype_cross_entropy,
    prototype_logits,
)
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, Modality, ModelOutput


@dataclass(frozen=True, kw_only=True)
class FedPMR(WeightedMethod):
    """CE(F) + weight * CE(-||z_m - prototype_m||, y) on every modality but the batch's strongest.

    The prototypes are class means of z_m on the node's samples under the received model. The
    strongest modality of a batch has the largest sum of softmax(-||z_m - prototype_m||)[y] over
    the samples that have every modality of the node; where there is none, as on nodes with one
    modality, CE(F) is trained alone.
    """

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.1, 0.3, 1.0))

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> dict[Modality, Tensor]:
        """Return the node's prototypes under the received model."""
        if len(model.owned) < 2 or self.weight == 0:
            return {}

        sums, counts = embedding_sums(model, local.batches())
        return {name: class_means(sums[name], counts[name]) for name in model.owned}

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return CE(F) and the weaker modalities' term."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        prototypes: dict[Modality, Tensor] = local.method_state
        rows = present_rows(model, batch)
        every = torch.stack(list(rows.values())).all(dim=0)
        if prototypes and bool(every.any()):
            with torch.no_grad():
                z = output.self_embeddings
                scores = {
                    name: self._score(z[name], batch, mean, every)
                    for name, mean in prototypes.items()
                }

            strongest = max(scores, key=lambda name: float(scores[name]))
            pulls = [
                prototype_cross_entropy(output.self_embeddings[name], p, batch.labels, rows[name])
                for name, p in prototypes.items()
                if name != strongest
            ]
            terms["prototype"] = torch.stack(pulls).sum()

        return LossTerms(terms, {"prototype": self.weight})

    def _score(self, z: Tensor, batch: Batch, prototypes: Tensor, rows: Tensor) -> Tensor:
        return (true_class_probability(prototype_logits(z, prototypes), batch.labels) * rows).sum()


METHODS = {"fedpmr": FedPMR()}
