"""MOON (Li et al., CVPR 2021): model-contrastive learning on the fused representation."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedcmi_flwr.methods.base import WeightedMethod
from fedcmi_flwr.methods.local import Kept, LocalRound, LocalSteps
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, ModelOutput

TEMPERATURE = 0.5
"""Of the contrast; the authors' value."""


class Others(NamedTuple):
    """The two frozen models that a sample's representation is compared with."""

    received: MultimodalModel
    previous: MultimodalModel | None
    """The node's own model after its last turn; None in its first."""


@dataclass(frozen=True, kw_only=True)
class Moon(WeightedMethod):
    """CE(F) + weight * contrast.

    The representation is the fusion head's input, [batch, modalities * dim].

    contrast = -ln( e^(sim(v, v_global) / 0.5) / (e^(sim(v, v_global) / 0.5) + e^(sim(v,
    v_previous) / 0.5)) ), with the cosine as sim; it is left out in a node's first turn, which
    has no previous model.
    """

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.1, 1.0, 5.0))

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> Others:
        """Freeze the received model and rebuild the previous one."""
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        if set(memory) != set(model.trained_state()):
            return Others(frozen, None)

        previous = copy.deepcopy(frozen)
        previous.load_trained_state(memory)

        return Others(frozen, previous)

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return CE(F) and the contrast."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        others: Others = local.method_state
        if others.previous is not None and self.weight > 0:
            with torch.no_grad():
                towards = representation(others.received, batch, others.received(batch))
                away = representation(others.previous, batch, others.previous(batch))

            terms["contrast"] = contrast(representation(model, batch, output), towards, away)

        return LossTerms(terms, {"contrast": self.weight})

    def finish(self, model: MultimodalModel, local: LocalRound, steps: LocalSteps) -> Kept:
        """Keep the trained model for the node's next turn."""
        return Kept(
            memory={name: value.detach().clone() for name, value in model.trained_state().items()}
        )


def representation(
    model: MultimodalModel, batch: Batch, output: ModelOutput
) -> Float[Tensor, "batch width"]:
    """Return the fusion head's input, all slots in a row."""
    slots = model.slots(output.self_embeddings, output.infiltration_embeddings, batch.present)
    return slots.flatten(1)


def contrast(
    own: Float[Tensor, "batch width"],
    towards: Float[Tensor, "batch width"],
    away: Float[Tensor, "batch width"],
) -> Float[Tensor, ""]:
    """Return the mean of MOON's contrastive loss in nats, 0 or greater.

    Parameters
    ----------
    own
        Representation under the model in training; the gradient flows into this one.
    towards
        Under the received model.
    away
        Under the node's previous model.

    Returns
    -------
    Scalar.

    Examples
    --------
    >>> v = torch.tensor([[1.0, 0.0]])
    >>> round(float(contrast(v, v, -v)), 4)  # ln(1 + e^(-2 / 0.5))
    0.0181
    """
    similarity = torch.stack(
        [F.cosine_similarity(own, towards), F.cosine_similarity(own, away)], dim=1
    )
    return F.cross_entropy(
        similarity / TEMPERATURE, torch.zeros(len(own), dtype=torch.long, device=own.device)
    )


METHODS = {"moon": Moon()}
