"""One round of local training as a method sees it.

What the node knows before it, and what is kept of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.types import Batch, ClassStats, Modality


@runtime_checkable
class Teacher(Protocol):
    """One modality of the received model, frozen."""

    def self_logits(self, x: Any) -> Float[Tensor, "batch classes"]:  # noqa: ANN401
        """Return the self logits of inputs."""

    def self_logits_of(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the same from ``encoder.features``, which ``encoder.output`` has yet to map."""


@dataclass(frozen=True)
class LocalRound:
    """What a node knows in one round besides its batches."""

    owned: tuple[Modality, ...]
    unimodal: bool
    """True when the node owns one modality of several."""
    global_parameters: Sequence[Tensor]
    """Parameters of the received model, in the order of ``model.trained_parameters()``, detached
    copies."""
    teachers: Mapping[Modality, Teacher]
    """Frozen branches of the received model, in eval mode, for the modalities that may teach."""
    dominance: Dominance
    stats: ClassStats | None
    """Own statistics of this round on the received model."""
    log_prior: Float[Tensor, " classes"]
    """ln of the share of each class among the node's samples, one half sample added to each."""
    batches: Callable[[], Iterator[Batch]]
    """The node's samples once, in stored order, on the model's device."""
    generator: torch.Generator
    """The method's own random numbers of this round and node, on the CPU."""
    features: Mapping[Modality, Float[Tensor, "samples features"]] = field(default_factory=dict)
    """Features of the teachers' encoders, by sample index; only where samples look the same in
    every epoch."""
    log_prior_of: Mapping[Modality, Float[Tensor, " classes"]] = field(default_factory=dict)
    """``log_prior`` among the samples that have a modality, for each modality that some of them
    lack."""
    method_state: Any = None
    """What :meth:`Method.prepare` made for the method itself."""

    @torch.no_grad()
    def teacher_logits(self, modality: Modality, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Return a teacher's self logits of a batch.

        Features that are kept are used again. The layers behind them are computed anew: they are
        cheap, and unlike those of convolutions their last bits depend on the size of the batch.

        Parameters
        ----------
        modality
            One of ``teachers``.
        batch
            Training samples.

        Returns
        -------
        [batch, classes]; of no meaning for samples without the modality.

        Raises
        ------
        LookupError
            The modality does not teach in this round.
        """
        teacher = self.teachers.get(modality)
        if teacher is None:
            raise LookupError(
                f"{modality!r} does not teach in this round: the method's `teaching` named "
                f"{list(self.teachers)}. Ask for the logits of those, and see that `measures` is "
                "True where `teaching` needs statistics."
            )
        if modality not in self.features:
            return teacher.self_logits(batch.inputs[modality])

        return teacher.self_logits_of(self.features[modality][batch.indices])


@dataclass(frozen=True)
class LocalSteps:
    """What was done in a round, as far as a method has to know."""

    count: int
    """Optimiser steps."""
    lr: float
    momentum: float


@dataclass(frozen=True)
class Kept:
    """What a method keeps of a round: some for the server, some for the node's next turn."""

    to_server: Mapping[str, Tensor] = field(default_factory=dict)
    """Arrays for :meth:`Method.combine`: of the size of weights, or summed statistics; never
    samples."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Arrays that stay on the node until it is sampled again."""
