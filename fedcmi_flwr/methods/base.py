"""What every method is made of.

Hyperparameters that all share, and hooks that do nothing until a method fills them.

A method is a frozen dataclass. Its fields are its hyperparameters: they travel to the nodes
under the same names, and are all that a run configuration may override. All methods run in the
same model code, loop and aggregation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedcmi_flwr.config.fields import Settings, choice, number
from fedcmi_flwr.methods import losses
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.methods.local import Kept, LocalRound, LocalSteps
from fedcmi_flwr.methods.measuring import SaysWhenItMeasures
from fedcmi_flwr.models.encoders import NORMALIZATIONS
from fedcmi_flwr.models.multimodal import MultimodalModel, mask_for
from fedcmi_flwr.types import AnyArray, Batch, ClassStats, LossTerms, Modality, ModelOutput, Votes


@dataclass(frozen=True, kw_only=True)
class Method(SaysWhenItMeasures, Settings):
    """A method that adds nothing to the loss but what all methods share."""

    mu: float = number(0, default=0.0)
    """Weight mu of FedProx's proximal term mu/2 ||w - w_global||^2 (Li et al., MLSys 2020); 0:
    off."""
    averaging: float = number(0, 1, below=True, default=0.0)
    """Decay of the moving average of the global weights that is evaluated and saved, a <-
    averaging a + (1 - averaging) w after each round; training goes on from w. 0: off."""
    prior_adjustment: float = number(0, default=0.0)
    """Weight of ln(share of the class among the node's samples), which every cross-entropy of a
    head or the fusion head adds to the logits, so that a node's label skew does not go into
    the weights (Menon et al., ICLR 2021); 0: off."""
    max_gradient_norm: float = number(0, default=0.0)
    """Euclidean norm to which the gradient of each parameter group (a modality's branch, the
    fusion head) is scaled down where it is longer, so that one modality's steep batch neither
    undoes nor slows the others; 0: off. The norm is that of the loss alone, before proximal
    gradients and control variates."""
    normalization: str = choice(*NORMALIZATIONS, default="batch")
    """What normalises inside the encoders: "batch" norm, whose statistics are those of a node's
    own batches, or "group" norm, which has none."""

    # ---- what kind of method it is

    @property
    def structure(self) -> str:
        """One of ``models.multimodal.STRUCTURES``."""
        return "fusion"

    @property
    def fusions(self) -> tuple[str, ...] | None:
        """The fusion heads that the method works with; None: any, those from outside too."""
        return None

    @property
    def votes(self) -> Votes:
        """Weights of the branches' heads beside the fusion head when a class is predicted."""
        return Votes()

    @property
    def measures(self) -> bool:
        """True when nodes measure class statistics on what they receive.

        Say it where ``decide`` or ``teaching`` is.
        """
        return False

    @property
    def needs_sgd(self) -> str:
        """Why the method goes with SGD alone, as the end of a sentence.

        Empty: it goes with any optimiser.
        """
        return ""

    @property
    def needs_single_batches(self) -> str:
        """Why each step must be that of one batch, as the end of a sentence.

        Empty: gradients may be accumulated.
        """
        return ""

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]] | None:
        """The key of the method's own weight, and three values.

        `fedcmi tune` also tries the two that differ from the current value.
        """
        return None

    # ---- on the server

    def initialize(self, model: MultimodalModel) -> None:
        """Change how a new model starts.

        By default it stays as the run's ``initialization`` made it.
        """

    def decide(self, stats: ClassStats) -> Dominance:
        """Return the dominant modality and the temperatures, from class statistics."""
        return NOBODY

    def broadcast(self, decided: Dominance) -> Dominance:
        """Return the part of the decision that the server sends with the next round's model."""
        return NOBODY

    def for_node(
        self, state: Mapping[str, AnyArray], modalities: Sequence[Modality], names: Sequence[str]
    ) -> dict[str, AnyArray]:
        """Return the part of the method's server state that is sent to a node.

        Parameters
        ----------
        state
            What :meth:`combine` returned last; empty before.
        modalities
            What the node owns.
        names
            Names of the model's arrays that the node is sent.

        Returns
        -------
        Name -> array.
        """
        return {}

    def check_reply(
        self,
        reply: Mapping[str, AnyArray],
        sent: Mapping[str, AnyArray],
        modalities: Sequence[Modality],
        num_classes: int,
        num_examples: int,
    ) -> None:
        """Raise ValueError unless a node's arrays for :meth:`combine` are as they must be.

        Parameters
        ----------
        reply
            Name -> array from the node, all finite.
        sent
            The model's arrays that the node was sent.
        modalities
            What the node owns.
        num_classes
            C.
        num_examples
            Training samples of the node, as it says.
        """
        if reply:
            raise ValueError(f"arrays {sorted(reply)} that this method did not ask for.")

    def scale_reply(self, reply: Mapping[str, AnyArray], share: float) -> Mapping[str, AnyArray]:
        """Return a node's arrays for :meth:`combine` as if it had fewer samples.

        By default they do not depend on the number of samples.

        Parameters
        ----------
        reply
            Name -> array that :meth:`check_reply` let through.
        share
            Share of its samples that may count, in (0, 1).

        Returns
        -------
        Name -> array.
        """
        return reply

    def incompatible_replies(
        self, state: Mapping[str, AnyArray], replies: Mapping[int, Mapping[str, AnyArray]]
    ) -> dict[int, str]:
        """Return which replies cannot be combined with the state or with each other, and why.

        Parameters
        ----------
        state
            What :meth:`combine` returned last; empty before.
        replies
            Partition id -> arrays that :meth:`check_reply` let through.

        Returns
        -------
        Partition id -> reason.
        """
        return {}

    def combine(
        self,
        state: Mapping[str, AnyArray],
        replies: Sequence[Mapping[str, AnyArray]],
        owners: Mapping[str, int],
    ) -> dict[str, AnyArray]:
        """Return the method's new state on the server.

        Parameters
        ----------
        state
            The old one.
        replies
            What nodes kept for the server, in the order of their partition ids.
        owners
            Name of a model's array -> known nodes that own its group, sampled or not.

        Returns
        -------
        Name -> array.
        """
        return {}

    def without_memory(self, state: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return what is left of the state on the server when all nodes have lost their memory.

        By default all of it is.

        Parameters
        ----------
        state
            What :meth:`combine` returned last.

        Returns
        -------
        Name -> array.
        """
        return dict(state)

    # ---- on a node

    def teaching(
        self,
        owned: tuple[Modality, ...],
        server_round: int,
        received: Dominance,
        stats: ClassStats | None,
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Return the decision that a node follows in this round, and who may teach under it."""
        return NOBODY, ()

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> Any:  # noqa: ANN401
        """Return whatever the method needs in this round, before the first step.

        It becomes ``local.method_state``.

        Parameters
        ----------
        model
            The received model.
        local
            The round, without ``method_state``.
        received
            What :meth:`for_node` gave.
        memory
            What the node kept from its last turn; empty in its first.

        Returns
        -------
        Anything; None where the method needs nothing.
        """
        return None

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return the local objective's terms for one batch; here CE(F)."""
        return LossTerms({"fused": self.fused_cross_entropy(batch, output, local)})

    def clip_gradients(self, model: MultimodalModel) -> None:
        """Scale each parameter group's gradient in place, where ``max_gradient_norm`` says so."""
        if self.max_gradient_norm > 0:
            for group in model.trained_groups().values():
                torch.nn.utils.clip_grad_norm_(group, self.max_gradient_norm)

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Change the gradients in place after backward, before the optimiser's step.

        Here mu (w - w_global) is added, the gradient of FedProx's mu/2 ||w - w_global||^2 (Li et
        al., MLSys 2020).
        """
        if self.mu == 0:
            return

        pairs = zip(model.trained_parameters().values(), local.global_parameters, strict=True)
        trained = [(w.grad, w.detach(), start) for w, start in pairs if w.grad is not None]
        gradients, weights, starts = (list(column) for column in zip(*trained, strict=True))
        torch._foreach_add_(gradients, torch._foreach_sub(weights, starts), alpha=self.mu)

    def finish(self, model: MultimodalModel, local: LocalRound, steps: LocalSteps) -> Kept:
        """Return what is kept of the round, after the last step."""
        return Kept()

    # ---- for the hooks of a method

    def cross_entropy(
        self,
        logits: Float[Tensor, "batch classes"],
        batch: Batch,
        rows: Bool[Tensor, " batch"],
        local: LocalRound,
        modality: Modality | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over ``rows``, with the prior adjustment where it is on.

        Parameters
        ----------
        logits
            [batch, classes].
        batch
            Gives the labels.
        rows
            [batch]: the samples that count; the mean over none is 0.
        local
            Gives the priors.
        modality
            What the samples in ``rows`` are known to have; the prior is that of such samples.
            None: of all.

        Returns
        -------
        Scalar in nats.
        """
        if self.prior_adjustment > 0:
            prior = local.log_prior
            if modality is not None:
                prior = local.log_prior_of.get(modality, prior)

            logits = logits + self.prior_adjustment * prior

        return losses.cross_entropy(logits, batch.labels, rows)

    def fused_cross_entropy(
        self, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> Float[Tensor, ""]:
        """Return CE(F) over all samples of the batch."""
        every = torch.ones_like(batch.labels, dtype=torch.bool)
        return self.cross_entropy(output.fused_logits, batch, every, local)

    def surrogate_cross_entropy(
        self,
        model: MultimodalModel,
        batch: Batch,
        output: ModelOutput,
        local: LocalRound,
        present: Mapping[Modality, Bool[Tensor, " batch"]],
    ) -> Float[Tensor, ""]:
        """Return sum_m CE(F with every slot but that of m filled by q_m).

        Parameters
        ----------
        model
            With infiltration projectors.
        batch
            Training samples.
        output
            What the model made of the batch.
        local
            Gives the priors.
        present
            Modality -> the samples that have it.

        Returns
        -------
        Scalar in nats.
        """
        surrogates = []
        for name, rows in present.items():
            mask, _ = mask_for((name,), model.spec.modalities, batch.present)
            logits = model.fuse(output.self_embeddings, output.infiltration_embeddings, mask)
            surrogates.append(self.cross_entropy(logits, batch, rows, local, name))

        return torch.stack(surrogates).sum()


@dataclass(frozen=True, kw_only=True)
class WeightedMethod(Method):
    """A method with one weight of its own."""

    weight: float = number(0, default=1.0)
    """Weight of what the method adds to FedAvg's loss; at 0 the method is FedAvg."""


def present_rows(model: MultimodalModel, batch: Batch) -> dict[Modality, Bool[Tensor, " batch"]]:
    """Return the samples that have each modality that the model has a branch for."""
    return {name: batch.present[:, model.spec.modalities.index(name)] for name in model.owned}
