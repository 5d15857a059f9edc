"""Sums and counts over a split, and the one place that turns them into accuracies."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedcmi_flwr.encoders import Encoder
from fedcmi_flwr.losses import true_class_probability
from fedcmi_flwr.model import MultimodalModel, scatter
from fedcmi_flwr.types import Batch, ClassStats, Modality, ModelOutput, Votes

FUSION_ALONE = Votes()
"""The fusion head decides alone."""


@dataclass(frozen=True)
class Counts:
    """Correct predictions and samples per class of one way to predict ("fused", "audio only", ...)."""

    correct: NDArray[np.int64]
    """[classes]."""
    count: NDArray[np.int64]
    """[classes]."""

    def __add__(self, other: "Counts") -> "Counts":
        """Add another node's or batch's counts."""
        return Counts(self.correct + other.correct, self.count + other.count)

    @property
    def accuracy(self) -> float:
        """Share of all samples predicted right, in [0, 1]; NaN without samples."""
        return _ratio(self.correct.sum(), self.count.sum())

    @property
    def per_class(self) -> list[float]:
        """Accuracy of each class, in [0, 1]; NaN for classes without samples."""
        return [_ratio(correct, count) for correct, count in zip(self.correct, self.count, strict=True)]

    @property
    def macro(self) -> float:
        """Mean accuracy over the classes that have samples."""
        return float(np.nanmean(self.per_class)) if self.count.any() else float("nan")

    @property
    def worst_class(self) -> float:
        """Lowest accuracy over the classes that have samples."""
        return float(np.nanmin(self.per_class)) if self.count.any() else float("nan")


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else float("nan")


def _per_class(labels: Tensor, weight: Tensor, num_classes: int) -> NDArray[np.float64]:
    """Sum ``weight`` [batch] over the samples of each class, in double precision."""
    sums = torch.bincount(
        labels, weight.double(), minlength=num_classes
    ).double()  # of no sample they would be integers
    found: NDArray[np.float64] = sums.cpu().numpy()
    return found


def _device(model: MultimodalModel) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Measured:
    """What a node sees of its own samples under the received model."""

    stats: ClassStats
    """Per owned modality and class, the sum of true-class probabilities and the number of samples."""
    features: Mapping[Modality, Float[Tensor, "samples features"]]
    """What each owned modality's encoder makes of the samples, by place; zeros where a sample has not the modality."""


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
    return Measured(ClassStats(total, count), {name: torch.cat(parts) for name, parts in seen.items()})


def _as_one_of_several(encoder: Encoder, sample: Tensor) -> Tensor:
    """Return one sample's features as a larger batch has them: convolutions of a single one round otherwise."""
    return encoder.features(torch.cat([sample, sample]))[:1]


@torch.no_grad()
def evaluate(model: MultimodalModel, batches: Iterable[Batch], votes: Votes = FUSION_ALONE) -> dict[str, Counts]:
    """Count correct predictions of every way to predict that the model offers.

    Parameters
    ----------
    model
        Put into eval mode for the evaluation and back.
    batches
        Samples to predict.
    votes
        Weights of the branches' heads beside the fusion head; by default the fusion head decides alone.

    Returns
    -------
    "fused": every modality that a sample has; "<m> only": modality m with the other slots filled; "<m> head": the self
    head H_m(u_m). Samples without modality m do not count for the latter two.
    """
    was_training, device = model.training, _device(model)
    model.eval()
    counts: dict[str, Counts] = {}
    for batch in (batch.to(device) for batch in batches):
        for name, (logits, rows) in _predictions(model, batch, votes).items():
            found = _count(logits, batch.labels, rows)
            counts[name] = counts[name] + found if name in counts else found
    model.train(was_training)
    return counts


def _predictions(model: MultimodalModel, batch: Batch, votes: Votes) -> dict[str, tuple[Tensor, Tensor]]:
    output = model(batch)
    fused = _with_votes(model, output, output.fused_logits, batch.present, votes)
    predictions = {"fused": (fused, batch.present.any(dim=1))}
    for name in model.owned:
        rows = batch.present[:, model.spec.modalities.index(name)]
        mask = model.only(name, batch.present)
        alone = model.fuse(output.self_embeddings, output.infiltration_embeddings, mask)
        predictions[only_name(name)] = (_with_votes(model, output, alone, mask, votes), rows)
        if name in output.self_logits:
            predictions[head_name(name)] = (output.self_logits[name], rows)
    return predictions


def _with_votes(model: MultimodalModel, output: ModelOutput, fused: Tensor, present: Tensor, votes: Votes) -> Tensor:
    """Return the scores that Votes describes, [batch, classes]."""
    total = fused.log_softmax(dim=1)
    heads = ((votes.self_heads, output.self_logits), (votes.infiltration_heads, output.infiltration_logits))
    for weight, voters in heads:
        for name, logits in voters.items() if weight > 0 else ():
            rows = present[:, model.spec.modalities.index(name)].unsqueeze(1)
            total = total + weight * rows * logits.log_softmax(dim=1)
    return total


def _count(logits: Tensor, labels: Tensor, rows: Tensor) -> Counts:
    classes = logits.shape[1]
    right = (logits.argmax(dim=1) == labels) & rows
    correct, count = (_per_class(labels, weight, classes).astype(np.int64) for weight in (right, rows))
    return Counts(correct, count)


def only_name(modality: Modality) -> str:
    """Return the name of the prediction from one modality with the other slots filled."""
    return f"{modality} only"


def head_name(modality: Modality) -> str:
    """Return the name of the prediction of one modality's self head."""
    return f"{modality} head"


def is_head(prediction: str) -> bool:
    """Return whether a prediction is that of a self head, which says how well a branch is trained."""
    return prediction.endswith(" head")


def summarise(counts: Mapping[str, Counts], figure: Callable[[Counts], float]) -> dict[str, float]:
    """Return one figure (accuracy, macro accuracy, worst class) of every way to predict."""
    return {name: figure(found) for name, found in counts.items()}
