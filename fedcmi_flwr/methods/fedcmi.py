"""FedCMI (Fan et al., arXiv 2401.00894) and the control without distillation.

FedCMI+ is in ``fedcmi_plus.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcmi_flwr.config.fields import choice, flag, number
from fedcmi_flwr.methods.base import Method, present_rows
from fedcmi_flwr.methods.dominance import NOBODY, Dominance, decide_dominance
from fedcmi_flwr.methods.local import LocalRound
from fedcmi_flwr.methods.losses import knowledge_distillation, true_class_probability
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, ClassStats, LossTerms, Modality, ModelOutput, Votes

DOMINANCES = ("global", "client", "batch")


@dataclass(frozen=True, kw_only=True)
class CrossModalInfiltration(Method):
    """FedCMI's local objective; with lambda = mu = 0 it is the control for KD.

    L = CE(F(u)) + gamma sum_m CE(H_m(u_m)) + lambda sum_{m != d} KD_m; proximal gradient mu (w -
    w_global).
    """

    gamma: float = number(0, default=2.0)
    """Weight gamma of the self heads' cross-entropy, sum_m CE(H_m(u_m))."""
    lambda_: float = number(0, key="lambda", default=1.0)
    """Weight lambda of the distillation from the dominant modality d into the others, sum_{m !=
    d} KD_m."""
    mu: float = number(0, default=1.0)
    kappa: float = number(0, default=2.0)
    """Strength kappa of the class-wise temperature T_{m,c}, by which teacher's and student's
    logits are both divided: below 1, so that both are sharper, for classes where a modality
    lags; kappa = 0 gives T = 1 for every class."""
    warmup: int = number(0, default=1)
    """First rounds of a run, in which nothing is distilled."""
    dominance: str = choice(*DOMINANCES, default="global")
    """Who decides the dominant modality d and the temperatures T: the server ("global"), each
    node in each round ("client"), or each batch for d and the node for T ("batch")."""
    surrogate: float = number(0, default=0.0)
    """Weight of CE(F with every other slot filled by q_m) on multimodal nodes, which trains what
    the fusion head sees where modalities are missing; 0: off."""
    kd_temperature_scaling: bool = flag(default=False)
    """Multiply KD by T^2, so that a low temperature does not make its gradient larger."""
    unimodal_auxiliary: bool = flag(default=False)
    """Nodes that own one modality train its self head too, with weight gamma."""
    self_head_votes: float = number(0, default=0.0)
    """Weight of the self heads' log-probabilities, beside 1 for the fusion head's, when a class is
    predicted; 0: off."""
    infiltration_votes: float = number(0, default=0.0)
    """Weight of the infiltration heads' log-probabilities, beside 1 for the fusion head's, when
    a class is predicted; 0: off."""
    infiltration: bool = flag(default=True)
    """Whether there are infiltration projectors; without them q_m = u_m, and what learns from
    the teacher are the self logits (an ablation)."""

    @property
    def structure(self) -> str:
        """Two projectors, or one."""
        return "two-projectors" if self.infiltration else "one-projector"

    @property
    def votes(self) -> Votes:
        """Weights of the branches' heads beside the fusion head when a class is predicted."""
        return Votes(self.self_head_votes, self.infiltration_votes)

    @property
    def measures(self) -> bool:
        """Class statistics serve the teacher alone."""
        return self.lambda_ > 0

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The distillation's weight; without distillation that of the self heads."""
        return ("lambda", (0.3, 1.0, 3.0)) if self.lambda_ > 0 else ("gamma", (1.0, 2.0, 4.0))

    def decide(self, stats: ClassStats) -> Dominance:
        """Return the dominant modality and the class-wise temperatures of the weak ones."""
        return decide_dominance(stats, self.kappa)

    def broadcast(self, decided: Dominance) -> Dominance:
        """Return the decision where the server is the one who decides."""
        return decided if self.dominance == "global" else NOBODY

    def teaching(
        self,
        owned: tuple[Modality, ...],
        server_round: int,
        received: Dominance,
        stats: ClassStats | None,
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Let d teach: not in warm-up rounds, and only beside another modality that is owned."""
        if stats is None or server_round <= self.warmup or len(owned) < 2:
            return NOBODY, ()
        if self.dominance == "batch":
            return NOBODY, owned  # decided in each batch

        decision = received if self.dominance == "global" else self.decide(stats)

        return (decision, (decision.dominant,)) if decision.dominant in owned else (NOBODY, ())

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return the terms ``fused``, ``self``, ``kd`` and ``surrogate``, as far as they apply."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        present = present_rows(model, batch)
        if self.gamma > 0 and (self.unimodal_auxiliary or not local.unimodal):
            heads = [
                self.cross_entropy(output.self_logits[m], batch, present[m], local, m)
                for m in local.owned
            ]
            terms["self"] = torch.stack(heads).sum()

        if local.teachers:
            distilled = self._distillation(batch, output, local, present)
            if distilled:
                terms["kd"] = torch.stack(distilled).sum()

        if self.surrogate > 0 and not local.unimodal:
            terms["surrogate"] = self.surrogate_cross_entropy(model, batch, output, local, present)

        return LossTerms(
            terms, {"self": self.gamma, "kd": self.lambda_, "surrogate": self.surrogate}
        )

    def _distillation(
        self,
        batch: Batch,
        output: ModelOutput,
        local: LocalRound,
        present: Mapping[Modality, Tensor],
    ) -> list[Tensor]:
        decided = self._dominance_of_batch(batch, output, local, present)
        d = decided.dominant
        if d is None or d not in local.teachers:
            return []

        losses = []
        teacher = local.teacher_logits(d, batch)
        unmeasured = torch.ones_like(teacher[0])  # T of a modality that nobody measured
        scaled = self.kd_temperature_scaling

        for name in local.owned:
            if name == d:
                continue

            temperature = decided.temperature.get(name, unmeasured).to(teacher)[batch.labels]
            both = present[name] & present[d]
            student = output.infiltration_logits[name]
            losses.append(knowledge_distillation(teacher, student, temperature, both, scaled))

        return losses

    def _dominance_of_batch(
        self,
        batch: Batch,
        output: ModelOutput,
        local: LocalRound,
        present: Mapping[Modality, Tensor],
    ) -> Dominance:
        if self.dominance != "batch" or local.stats is None:
            return local.dominance

        complete = torch.stack(list(present.values())).all(dim=0)
        if not bool(complete.any()):
            return NOBODY  # no sample to compare the modalities on

        sums = [
            (true_class_probability(output.self_logits[m], batch.labels) * complete).sum()
            for m in local.owned
        ]
        winner = local.owned[int(torch.stack(sums).argmax())]

        return decide_dominance(local.stats, self.kappa, winner)


METHODS = {
    "fedavg-heads": CrossModalInfiltration(lambda_=0.0, mu=0.0),
    "fedcmi": CrossModalInfiltration(),
}
