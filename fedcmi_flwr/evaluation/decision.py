"""How a class is predicted from a subset of the modalities: which heads vote, and how sure that is.

A model is used with whatever modalities a sample has. For each subset one :class:`Decision` says
which heads vote and by what temperature their scores are divided, so that their softmax is the
chance of being right (``calibration.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.types import Modality, ModelOutput, Votes

Subset = tuple[Modality, ...]
"""One or more modalities, in the federation's order."""
ALL_SUBSETS_UP_TO = 5
"""Modalities of which every subset is looked at; of more, each one, all but one, and all."""


def scores(
    model: MultimodalModel,
    output: ModelOutput,
    present: Bool[Tensor, "batch modalities"],
    votes: Votes,
) -> Float[Tensor, "batch classes"]:
    """Return the class scores that ``votes`` gives when only the ``present`` modalities count.

    Parameters
    ----------
    model
        The model.
    output
        What it made of the batch.
    present
        Which modalities are looked at; each of them a sample must have.
    votes
        Weights of the heads.

    Returns
    -------
    Weighted sums of log-probabilities: the largest is the predicted class.
    """
    total = torch.zeros_like(output.fused_logits)
    if votes.fusion > 0:
        fused = model.fuse(output.self_embeddings, output.infiltration_embeddings, present)
        total = votes.fusion * fused.log_softmax(dim=1)

    heads = (
        (votes.self_heads, output.self_logits),
        (votes.infiltration_heads, output.infiltration_logits),
    )
    for weight, voters in heads:
        for name, logits in voters.items() if weight > 0 else ():
            rows = present[:, model.spec.modalities.index(name)].unsqueeze(1)
            total = total + weight * rows * logits.log_softmax(dim=1)

    return total


def rules(spec: ModelSpec, own: Votes) -> dict[str, Votes]:
    """Return the ways to decide that a model offers, by name.

    Parameters
    ----------
    spec
        The model's architecture.
    own
        The votes of the method that trained it.

    Returns
    -------
    "fused": the fusion head alone, slots of what is missing filled as the structure says;
    "self-heads": the self heads H_m(u_m) of the modalities that are there; "combined": both,
    with the method's own votes if it has any. A model without heads beside its fusion offers
    "fused" only, and so does one whose fusion is its heads' sum already.
    """
    if spec.structure not in ("two-projectors", "one-projector"):
        return {"fused": Votes()}

    combined = Votes(self_heads=1.0) if own == Votes() else own
    return {"fused": Votes(), "self-heads": Votes(self_heads=1.0, fusion=0.0), "combined": combined}


@dataclass(frozen=True)
class Decision:
    """How a class is predicted from one subset of the modalities."""

    votes: Votes
    temperature: float
    """The scores are divided by it before the softmax; above 0. The predicted class does not
    depend on it."""
    calibrated: bool
    """Whether rule and temperature were chosen on validation data."""

    @property
    def rule(self) -> str:
        """One of the names of :func:`rules`."""
        if self.votes.fusion == 0:
            return "self-heads"
        return "fused" if self.votes == Votes() else "combined"

    def log_probabilities(
        self, scores: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """Return ln of the probability of each class, from the scores of these votes."""
        return (scores / self.temperature).log_softmax(dim=1)


@dataclass(frozen=True)
class Decisions:
    """A decision for each subset of the modalities."""

    modalities: Subset
    """All modalities of the federation."""
    default: Decision
    """Of subsets that nothing was chosen for."""
    chosen: Mapping[Subset, Decision] = field(default_factory=dict)

    def of(self, subset: Sequence[Modality]) -> Decision:
        """Return the decision of a subset.

        Raise ValueError for an unknown modality, one named twice, or none.
        """
        if not subset or len(set(subset)) < len(subset) or not set(subset) <= set(self.modalities):
            raise ValueError(
                f"modalities {list(subset)}: need one or more of {list(self.modalities)}, each "
                "once."
            )
        return self.chosen.get(
            tuple(name for name in self.modalities if name in subset), self.default
        )

    def log_probabilities(
        self, model: MultimodalModel, output: ModelOutput, present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch classes"]:
        """Return ln of the probability of each class, each sample decided by the modalities that it
        has.

        Parameters
        ----------
        model
            The model, in eval mode.
        output
            What it made of the batch.
        present
            Which modalities are looked at, one or more of each sample.

        Returns
        -------
        Log-probabilities.

        Raises
        ------
        ValueError
            A sample without any modality.
        """
        found = torch.empty_like(output.fused_logits)
        for pattern in present.unique(dim=0):
            decision = self.of(
                [
                    name
                    for name, there in zip(self.modalities, pattern.tolist(), strict=True)
                    if there
                ]
            )
            rows = (present == pattern).all(dim=1)
            found[rows] = decision.log_probabilities(
                scores(model, output, present, decision.votes)
            )[rows]

        return found

    def to_json(self) -> dict[str, Any]:
        """Return what was chosen as JSON holds it, "audio+visual" -> the decision."""
        return {
            subset_name(subset): {
                "rule": decision.rule,
                "fusion": decision.votes.fusion,
                "self-heads": decision.votes.self_heads,
                "infiltration-heads": decision.votes.infiltration_heads,
                "temperature": decision.temperature,
                "calibrated": decision.calibrated,
            }
            for subset, decision in self.chosen.items()
        }

    @staticmethod
    def from_notes(notes: Mapping[str, Any], modalities: Sequence[Modality]) -> "Decisions":
        """Return the decisions of a model file.

        Parameters
        ----------
        notes
            Of the file's metadata (``model_file.py``): the method's votes, and "decisions", if
            any, by :meth:`to_json`.
        modalities
            All modalities of the federation.

        Returns
        -------
        The decisions; without any in the file, the method's votes with temperature 1 decide, not
        calibrated.

        Raises
        ------
        ValueError
            Notes that this project did not write.
        """
        try:
            own = Votes(float(notes["self-head-votes"]), float(notes["infiltration-votes"]))
            chosen = {
                tuple(name.split("+")): _read(fields)
                for name, fields in notes.get("decisions", {}).items()
            }
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"notes of the model: how it decides cannot be read ({error!r})."
            ) from error

        strange = sorted({name for subset in chosen for name in subset} - set(modalities))
        if strange:
            raise ValueError(
                f"notes of the model: decisions on {strange}, which are not of {list(modalities)}."
            )

        return Decisions(tuple(modalities), uncalibrated(own), chosen)


def uncalibrated(votes: Votes) -> Decision:
    """Return the decision by a method's own votes, with the probabilities as they come."""
    return Decision(votes, 1.0, calibrated=False)


def _read(fields: Mapping[str, Any]) -> Decision:
    votes = Votes(
        float(fields["self-heads"]), float(fields["infiltration-heads"]), float(fields["fusion"])
    )
    temperature = float(fields["temperature"])
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: must be above 0")

    return Decision(votes, temperature, bool(fields["calibrated"]))


def subsets(modalities: Sequence[Modality]) -> list[Subset]:
    """Return the subsets that are looked at, smaller ones first.

    Parameters
    ----------
    modalities
        All modalities of the federation.

    Returns
    -------
    Every non-empty one; of more than ALL_SUBSETS_UP_TO modalities each alone, all but one, and all.

    Examples
    --------
    >>> [subset_name(subset) for subset in subsets(("a", "b", "c"))]
    ['a', 'b', 'c', 'a+b', 'a+c', 'b+c', 'a+b+c']
    >>> len(subsets("abcdef"))
    13
    """
    return [subset for size in _sizes(len(modalities)) for subset in combinations(modalities, size)]


def _sizes(count: int) -> Iterator[int]:
    yield from range(1, count + 1) if count <= ALL_SUBSETS_UP_TO else (1, count - 1, count)


def subset_name(subset: Sequence[Modality]) -> str:
    """Return "audio+visual"."""
    return "+".join(subset)
