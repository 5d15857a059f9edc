"""Modality dropout (ModDrop: Neverova et al., TPAMI 2016) in every node's local training."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from fedcmi_flwr.config.fields import number
from fedcmi_flwr.methods.base import Method
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, ModelOutput


@dataclass(frozen=True, kw_only=True)
class ModDrop(Method):
    """CE(F) in which some samples show the fusion head only one of their modalities, chosen
    evenly.
    """

    weight: float = number(0, 1, default=0.5)
    """Share of the samples that show the fusion head one modality only."""

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.25, 0.5, 0.75))

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return CE(F) on what is left of each sample."""
        shown = kept_modalities(batch.present, self.weight, local.generator)
        logits = model.fuse(output.self_embeddings, output.infiltration_embeddings, shown)
        every = torch.ones_like(batch.labels, dtype=torch.bool)

        return LossTerms({"fused": self.cross_entropy(logits, batch, every, local)})


def kept_modalities(
    present: Bool[Tensor, "batch modalities"], share: float, generator: torch.Generator
) -> Bool[Tensor, "batch modalities"]:
    """Return ``present`` with all but one modality hidden in a random share of the rows.

    Parameters
    ----------
    present
        What each sample has.
    share
        Probability that a sample shows one modality only, in [0, 1].
    generator
        On the CPU.

    Returns
    -------
    A mask that leaves every sample at least one of its modalities.
    """
    drawn = torch.rand(present.shape, generator=generator).to(present.device)
    first = drawn.masked_fill(~present, -1).argmax(dim=1, keepdim=True)
    alone = torch.zeros_like(present).scatter(1, first, True) & present
    dropped = torch.rand(len(present), 1, generator=generator).to(present.device) < share

    return torch.where(dropped, alone, present)


METHODS = {"moddrop": ModDrop()}
