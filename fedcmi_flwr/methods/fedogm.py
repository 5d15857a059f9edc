"""FedOGM: on-the-fly gradient modulation, OGM-GE (Peng et al., CVPR 2022), in every node's local
training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedcmi_flwr.config.fields import number
from fedcmi_flwr.methods.base import WeightedMethod, present_rows
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.methods.losses import true_class_probability
from fedcmi_flwr.models.fusion import ConcatFusion
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, Modality, ModelOutput

SMALLEST_DEVIATION = 1e-8
"""Added to the noise's standard deviation, as the authors do."""


@dataclass(frozen=True, kw_only=True)
class FedOGM(WeightedMethod):
    """CE(F); convolution gradients of a modality that is ahead shrink, and all of them get noise.

    rho_m = s_m / mean of the other modalities' s, with s_m the batch's sum of true-class
    probabilities of the unimodal logits W_m z_m + b / |M|. Where rho_m > 1 the gradients of
    branch m are multiplied by 1 - tanh(weight * rho_m); then every convolution gets Gaussian
    noise of its own gradient's standard deviation. Nodes with one modality train CE(F) alone.
    Needs the concat fusion head, which alone has the W_m.
    """

    weight: float = number(0, default=0.5)
    """Strength alpha of the gradients' modulation; 0 turns modulation and noise off."""

    @property
    def fusions(self) -> tuple[str, ...]:
        """The one that is a sum of unimodal logits."""
        return ("concat",)

    @property
    def needs_sgd(self) -> str:
        """Say what another optimiser undoes."""
        return "shrinks gradients, which AdamW scales back to one size" if self.weight > 0 else ""

    @property
    def needs_single_batches(self) -> str:
        """Say what its coefficients are of."""
        return (
            "modulates each batch's gradient by that batch's own coefficients"
            if self.weight > 0
            else ""
        )

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.1, 0.5, 1.0))

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> dict[Modality, float]:
        """Return where each batch's coefficients are noted between its loss and its gradients."""
        if not isinstance(model.fusion, ConcatFusion):
            raise ValueError(
                f"method 'fedogm': fusion = {model.spec.fusion!r}, but its unimodal logits need "
                "'concat': in a module of your own a ConcatFusion, as its attribute `fusion`."
            )
        return {}

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return CE(F), and note the batch's coefficients."""
        if len(model.owned) > 1 and self.weight > 0:
            local.method_state.update(self._coefficients(model, batch, output))

        return super().loss_terms(model, batch, output, local)

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Modulate the convolutions' gradients and add the noise."""
        super().adjust_gradients(model, local)
        for name, coefficient in local.method_state.items():
            for parameter in model.branch(name).encoder.parameters():
                if parameter.grad is not None and parameter.ndim > 2:
                    # Convolutions of any dimension
                    noise = torch.randn(parameter.shape, generator=local.generator).to(parameter)
                    deviation = parameter.grad.std() + SMALLEST_DEVIATION
                    parameter.grad.mul_(coefficient).add_(noise * deviation)

    @torch.no_grad()
    def _coefficients(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput
    ) -> dict[Modality, float]:
        both = torch.stack(list(present_rows(model, batch).values())).all(dim=0)
        scores = {
            name: float(
                (
                    true_class_probability(unimodal_logits(model, output, name), batch.labels)
                    * both
                ).sum()
            )
            for name in model.owned
        }
        ratios = {
            name: score / max(_mean_of_others(scores, name), 1e-12)
            for name, score in scores.items()
        }
        modulated = torch.tensor(
            [1 - torch.tanh(torch.tensor(self.weight * ratio)) for ratio in ratios.values()]
        )

        return {
            name: float(value) if ratio > 1 else 1.0
            for (name, ratio), value in zip(ratios.items(), modulated, strict=True)
        }


def unimodal_logits(
    model: MultimodalModel, output: ModelOutput, modality: Modality
) -> Float[Tensor, "batch classes"]:
    """Return W_m z_m + b / |M|, modality m's share of the concat fusion head's logits."""
    if not isinstance(model.fusion, ConcatFusion):
        raise TypeError(f"fusion head {type(model.fusion).__name__} has no unimodal logits.")

    index, dim, linear = (
        model.spec.modalities.index(modality),
        model.spec.embedding_dim,
        model.fusion.output,
    )
    weight = linear.weight[:, index * dim : (index + 1) * dim]

    return output.self_embeddings[modality] @ weight.T + linear.bias / len(model.spec.modalities)


def _mean_of_others(scores: Mapping[Modality, float], modality: Modality) -> float:
    others = [score for name, score in scores.items() if name != modality]
    return sum(others) / len(others)


METHODS = {"fedogm": FedOGM()}
