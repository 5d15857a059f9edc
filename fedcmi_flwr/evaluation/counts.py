"""Sums and counts over a split, and the one place that turns them into accuracies."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedcmi_flwr.evaluation.calibration import Bins
from fedcmi_flwr.evaluation.decision import Decisions, Subset, scores, subset_name, subsets
from fedcmi_flwr.methods.losses import true_class_probability
from fedcmi_flwr.models.encoders import Encoder
from fedcmi_flwr.models.multimodal import MultimodalModel, mask_for, scatter
from fedcmi_flwr.types import Batch, ClassStats, Modality, Votes

Name = TypeVar("Name", bound=Hashable)
"""What a way to predict is called."""

FUSION_ALONE = Votes()
"""The fusion head decides alone."""


@dataclass(frozen=True)
class Counts:
    """Correct predictions and samples per class of one way to predict ("fused", "audio
    only", ...).
    """

    correct: NDArray[np.int64]
    """[classes]."""
    count: NDArray[np.int64]
    """[classes]."""
    bins: Bins = field(default_factory=Bins.none)
    """The same samples by how sure the prediction was."""

    def __add__(self, other: "Counts") -> "Counts":
        """Add another node's or batch's counts."""
        return Counts(
            self.correct + other.correct, self.count + other.count, self.bins + other.bins
        )

    @property
    def accuracy(self) -> float:
        """Share of all samples predicted right, in [0, 1]; NaN without samples."""
        return _ratio(self.correct.sum(), self.count.sum())

    @property
    def per_class(self) -> list[float]:
        """Accuracy of each class, in [0, 1]; NaN for classes without samples."""
        return [
            _ratio(correct, count) for correct, count in zip(self.correct, self.count, strict=True)
        ]

    @property
    def macro(self) -> float:
        """Mean accuracy over the classes that have samples."""
        return float(np.nanmean(self.per_class)) if self.count.any() else float("nan")

    @property
    def worst_class(self) -> float:
        """Lowest accuracy over the classes that have samples."""
        return float(np.nanmin(self.per_class)) if self.count.any() else float("nan")

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, in [0, 1]; NaN without samples."""
        return self.bins.expected_error


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else float("nan")


def _per_class(labels: Tensor, weight: Tensor, num_classes: int) -> NDArray[np.float64]:
    """Sum ``weight`` [batch] over the samples of each class, in double precision."""
    sums = torch.bincount(labels, weight.double(), minlength=num_classes)
    found: NDArray[np.float64] = sums.double().cpu().numpy()  # sums over no sample come as integers
    return found


def _device(model: MultimodalModel) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Measured:
    """What a node sees of its own samples under the received model."""

    stats: ClassStats
    """Per owned modality and class, the sum of true-class probabilities and the number of
    samples."""
    features: Mapping[Modality, Float[Tensor, "samples features"]]
    """What each owned modality's encoder makes of the samples, by place; zeros where a sample
    has not the modality."""


@torch.no_grad()
def measure(model: MultimodalModel, batches: Iterable[Batch]) -> Measured:
    """Pass the samples through every branch of the received model once.

    Parameters
    ----------
    model
        The received model, with two projectors; put into eval mode for the measurement and back.
    batches
        The node's samples, each once, in the order of their places.

    Returns
    -------
    Sums and counts, and the features that they were computed from.
    """
    was_training, device, classes = model.training, _device(model), model.spec.num_classes
    model.eval()
    total = {name: np.zeros(classes) for name in model.owned}
    count = {name: np.zeros(classes, dtype=np.int64) for name in model.owned}
    seen: dict[Modality, list[Tensor]] = {name: [] for name in model.owned}
    for batch in (batch.to(device) for batch in batches):
        for name in model.owned:
            branch, rows = model.branch(name), batch.present[:, model.spec.modalities.index(name)]
            inputs, labels = batch.inputs[name], batch.labels
            if not batch.complete:
                inputs, labels = inputs[rows], labels[rows]

            features = branch.encoder.features(inputs)
            probability = true_class_probability(branch.self_logits_of(features), labels)
            total[name] += _per_class(labels, probability, classes)
            count[name] += _per_class(labels, torch.ones_like(labels), classes).astype(np.int64)
            if len(labels) == 1:
                features = _as_one_of_several(branch.encoder, inputs)

            seen[name].append(features if batch.complete else scatter(features, rows))

    model.train(was_training)

    return Measured(
        ClassStats(total, count), {name: torch.cat(parts) for name, parts in seen.items()}
    )


def _as_one_of_several(encoder: Encoder, sample: Tensor) -> Tensor:
    """Return one sample's features as a larger batch has them.

    Convolutions of a single one round otherwise.
    """
    return encoder.features(torch.cat([sample, sample]))[:1]


@torch.no_grad()
def gives_numbers(model: MultimodalModel, batch: Batch) -> bool:
    """Return whether a model's logits of a batch are all finite; it is in eval mode afterwards."""
    model.eval()
    output = model(batch)
    logits = [output.fused_logits, *output.self_logits.values()]

    return all(bool(each.isfinite().all()) for each in logits)


@torch.no_grad()
def evaluate(
    model: MultimodalModel, batches: Iterable[Batch], votes: Votes = FUSION_ALONE
) -> dict[str, Counts]:
    """Count correct predictions of every way to predict that the model offers.

    Parameters
    ----------
    model
        Put into eval mode for the evaluation and back.
    batches
        Samples to predict.
    votes
        Weights of the branches' heads beside the fusion head; by default the fusion head decides
        alone.

    Returns
    -------
    "fused": every modality that a sample has; "<m> only": modality m with the other slots
    filled; "<m> head": the self head H_m(u_m); "<m>+<n> only": these modalities, for every
    proper subset of ``decision.subsets``. Samples that lack a modality do not count where it is
    asked for.
    """
    return _counted(model, batches, lambda batch: _predictions(model, batch, votes))


@torch.no_grad()
def accuracy_matrix(
    model: MultimodalModel, batches: Iterable[Batch], decisions: Decisions
) -> dict[Subset, Counts]:
    """Count correct predictions from every subset of the modalities, each decided in its own way.

    Parameters
    ----------
    model
        With branches of all modalities; put into eval mode for the evaluation and back.
    batches
        Samples to predict.
    decisions
        How each subset decides.

    Returns
    -------
    Subset -> counts over the samples that have all of it.
    """

    def predictions(batch: Batch) -> Iterator[tuple[Subset, Tensor, Tensor]]:
        output = model(batch)
        for subset in subsets(model.spec.modalities):
            mask, rows = mask_for(subset, model.spec.modalities, batch.present)
            decision = decisions.of(subset)
            yield (
                subset,
                decision.log_probabilities(scores(model, output, mask, decision.votes)),
                rows,
            )

    return _counted(model, batches, predictions)


def _counted(
    model: MultimodalModel,
    batches: Iterable[Batch],
    predictions: Callable[[Batch], Iterable[tuple[Name, Tensor, Tensor]]],
) -> dict[Name, Counts]:
    """Count, in eval mode, what is predicted for each batch.

    Name, logits [batch, classes] and which samples count.
    """
    was_training, device = model.training, _device(model)
    model.eval()
    counts: dict[Name, Counts] = {}
    for batch in (batch.to(device) for batch in batches):
        for name, logits, rows in predictions(batch):
            found = _count(logits, batch.labels, rows)
            counts[name] = counts[name] + found if name in counts else found

    model.train(was_training)

    return counts


def _predictions(
    model: MultimodalModel, batch: Batch, votes: Votes
) -> Iterator[tuple[str, Tensor, Tensor]]:
    output, modalities = model(batch), model.spec.modalities
    yield "fused", scores(model, output, batch.present, votes), batch.present.any(dim=1)
    for subset in (subset for subset in subsets(modalities) if set(subset) <= set(model.owned)):
        mask, rows = mask_for(subset, modalities, batch.present)
        if len(subset) == 1 or len(subset) < len(modalities):
            yield only_name(subset_name(subset)), scores(model, output, mask, votes), rows

        if len(subset) == 1 and subset[0] in output.self_logits:
            yield head_name(subset[0]), output.self_logits[subset[0]], rows


def prediction_names(modalities: Sequence[Modality]) -> list[str]:
    """Return every name that :func:`evaluate` may give a prediction, whatever a node owns and a
    model's structure is.

    Parameters
    ----------
    modalities
        Of the federation.

    Returns
    -------
    The names.

    Examples
    --------
    >>> prediction_names(["audio", "visual"])
    ['fused', 'audio only', 'visual only', 'audio head', 'visual head']
    """
    only = [
        only_name(subset_name(subset))
        for subset in subsets(modalities)
        if len(subset) < len(modalities)
    ]
    alone = [only_name(modality) for modality in modalities]
    heads = [head_name(modality) for modality in modalities]

    return list(dict.fromkeys(["fused", *alone, *only, *heads]))


def _count(logits: Tensor, labels: Tensor, rows: Tensor) -> Counts:
    classes = logits.shape[1]
    right = (logits.argmax(dim=1) == labels) & rows
    correct, count = (
        _per_class(labels, weight, classes).astype(np.int64) for weight in (right, rows)
    )

    return Counts(correct, count, Bins.of(logits[rows].log_softmax(dim=1), labels[rows]))


def only_name(subset: str) -> str:
    """Return the name of the prediction from some modalities ("audio", "audio+touch") with the
    other slots filled.
    """
    return f"{subset} only"


def head_name(modality: Modality) -> str:
    """Return the name of the prediction of one modality's self head."""
    return f"{modality} head"


def is_head(prediction: str) -> bool:
    """Return whether a prediction is that of a self head, which says how well a branch is
    trained.
    """
    return prediction.endswith(" head")


def summarise(counts: Mapping[str, Counts], figure: Callable[[Counts], float]) -> dict[str, float]:
    """Return one figure (accuracy, macro accuracy, worst class) of every way to predict."""
    return {name: figure(found) for name, found in counts.items()}
