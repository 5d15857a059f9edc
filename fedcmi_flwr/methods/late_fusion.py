"""Late fusion: one unimodal FedAvg per modality, log-probabilities summed when a class is
predicted.

The branches share no parameter, so that one run with the summed loss is as many runs with one
modality each, on the same nodes and batches.
"""

from dataclasses import dataclass

import torch

from fedcmi_flwr.methods.base import Method, present_rows
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, ModelOutput


@dataclass(frozen=True, kw_only=True)
class LateFusion(Method):
    """sum_m CE(H_m(z_m)), each modality with an encoder and a classifier of its own."""

    @property
    def structure(self) -> str:
        """No fusion head."""
        return "unimodal"

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return the sum of the modalities' cross-entropies."""
        rows = present_rows(model, batch)
        heads = [
            self.cross_entropy(output.self_logits[m], batch, rows[m], local, m) for m in model.owned
        ]
        return LossTerms({"self": torch.stack(heads).sum()})


METHODS = {"late-fusion": LateFusion()}
