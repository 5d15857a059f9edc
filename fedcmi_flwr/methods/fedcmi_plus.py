"""FedCMI+: FedCMI's two projectors, taught by all modalities of the received model together.

What differs from FedCMI (``fedcmi.py``), and was measured on real, naturally paired data:

- The teacher is the received model's self heads together, not the dominant modality's alone: the
  mean of their log-probabilities is the better teacher wherever modalities know different
  things.
- It teaches the self heads of every modality. What a node has learnt of the others so stays with
  each of them, and a node with one modality is held to what the federation knew.
- The fusion head is also trained on each modality alone, the other slots filled by Q_m: q_m
  learns what it is used for.
- Both projectors start as the identity. A random matrix between encoder and heads costs a node
  with few samples more than it can learn in its steps; from the identity, P_m and Q_m part only
  as far as their losses pull them.
- On nodes with several modalities the weights of the cross-entropies sum to one for each branch,
  so that a learning rate means here what it means for FedAvg.

The fusion head decides, and the self heads of what is there vote with half its weight each: what
they say is nearly the same after the teaching, and where modalities err independently a vote is
worth more than a share in the fusion.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcmi_flwr.config.fields import flag, number
from fedcmi_flwr.methods.base import Method, present_rows
from fedcmi_flwr.methods.dominance import NOBODY, Dominance, decide_dominance
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.methods.losses import knowledge_distillation, mean_log_probability
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, ClassStats, LossTerms, Modality, ModelOutput, Votes


@dataclass(frozen=True, kw_only=True)
class FedCMIPlus(Method):
    """FedCMI+.

    L = s [CE(F(u)) + gamma sum_m CE(H_m(u_m)) + surrogate sum_m CE(F(u_m, q_m)) + lambda sum_m
    KD(teacher, H_m(u_m))] with s = 1 / (1 + gamma + surrogate); proximal gradient mu (w -
    w_global), as in FedCMI.
    """

    gamma: float = number(0, default=1.0)
    """Weight gamma of the self heads' cross-entropy, sum_m CE(H_m(u_m))."""
    surrogate: float = number(0, default=0.5)
    """Weight of CE(F with every other slot filled by q_m) on nodes with several modalities,
    which trains what the fusion head sees where modalities are missing; 0: off."""
    lambda_: float = number(0, key="lambda", default=1.0)
    """Weight lambda of the distillation from the received self heads together into each self
    head."""
    temperature: float = number(0, above=True, default=2.0)
    """T of the distillation, whose loss is multiplied by T^2 (Hinton et al., 2015)."""
    warmup: int = number(0, default=1)
    """First rounds of a run, in which nothing is distilled."""
    identity_projectors: bool = flag(default=True)
    """Whether linear projectors P_m and Q_m start as the identity, not as torch's random
    matrices."""
    self_head_votes: float = number(0, default=0.5)
    """Weight of each self head's log-probabilities, beside 1 for the fusion head's, when a class
    is predicted."""

    @property
    def structure(self) -> str:
        """Two projectors."""
        return "two-projectors"

    @property
    def votes(self) -> Votes:
        """The self heads vote beside the fusion head.

        The infiltration heads, which are not trained, do not.
        """
        return Votes(self.self_head_votes)

    @property
    def measures(self) -> bool:
        """Measuring also keeps the encoders' features, which the teachers use again."""
        return self.lambda_ > 0

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The distillation's weight; without distillation that of the self heads."""
        return ("lambda", (0.3, 1.0, 3.0)) if self.lambda_ > 0 else ("gamma", (0.5, 1.0, 2.0))

    def initialize(self, model: MultimodalModel) -> None:
        """Let P_m and Q_m start as the identity."""
        if not self.identity_projectors:
            return

        for name in model.owned:
            branch = model.branch(name)

            for projector in (branch.self_projector, branch.infiltration_projector):
                if isinstance(projector, nn.Linear):
                    nn.init.eye_(projector.weight)
                    nn.init.zeros_(projector.bias)

    def decide(self, stats: ClassStats) -> Dominance:
        """Return the dominant modality, which is recorded; it has no part in the teaching."""
        return decide_dominance(stats, kappa=0.0)

    def teaching(
        self,
        owned: tuple[Modality, ...],
        server_round: int,
        received: Dominance,
        stats: ClassStats | None,
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Every owned modality teaches, once the warm-up is over."""
        return (NOBODY, owned) if self.lambda_ > 0 and server_round > self.warmup else (NOBODY, ())

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return the terms ``fused``, ``self``, ``kd`` and ``surrogate``, as far as they apply."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        present = present_rows(model, batch)

        if self.gamma > 0:
            heads = [
                self.cross_entropy(output.self_logits[m], batch, present[m], local, m)
                for m in local.owned
            ]
            terms["self"] = torch.stack(heads).sum()

        if local.teachers:
            terms["kd"] = self._distillation(batch, output, local, present)

        if self.surrogate > 0 and not local.unimodal:
            terms["surrogate"] = self.surrogate_cross_entropy(model, batch, output, local, present)

        share = 1 / (1 + self.gamma + self.surrogate)
        weights = {
            "fused": 1.0,
            "self": self.gamma,
            "kd": self.lambda_,
            "surrogate": self.surrogate,
        }

        return LossTerms(terms, {name: share * weight for name, weight in weights.items()})

    def _distillation(
        self,
        batch: Batch,
        output: ModelOutput,
        local: LocalRound,
        present: Mapping[Modality, Tensor],
    ) -> Float[Tensor, ""]:
        logits = torch.stack([local.teacher_logits(name, batch) for name in local.owned])
        rows = torch.stack([present[name] for name in local.owned])
        teacher = mean_log_probability(logits, rows)

        temperature = torch.full_like(teacher[:, 0], self.temperature)
        losses = [
            knowledge_distillation(
                teacher, output.self_logits[name], temperature, present[name], True
            )
            for name in local.owned
        ]

        return torch.stack(losses).sum()


METHODS = {
    "fedcmi-plus": FedCMIPlus(
        mu=0.1,
        averaging=0.7,
        prior_adjustment=0.5,
        max_gradient_norm=10.0,
        normalization="group",
    ),
}
