"""Confidence that can be believed.

A temperature for the scores, fitted on validation data, and the error that is left.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedcmi_flwr.evaluation.decision import (
    Decision,
    Decisions,
    Subset,
    rules,
    scores,
    subsets,
    uncalibrated,
)
from fedcmi_flwr.models.multimodal import MultimodalModel, mask_for
from fedcmi_flwr.types import Batch, Votes

NUM_BINS = 15
"""Bins of equal width over (0, 1] for the expected calibration error."""
LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0
"""Bounds of a temperature; where every validation sample is predicted right, the best would be
0."""
_HALVINGS = 60


class CalibrationError(ValueError):
    """Scores that no temperature can be fitted to."""


@dataclass(frozen=True)
class Bins:
    """Sums over samples by the confidence of their prediction.

    They add up over batches and nodes.
    """

    count: NDArray[np.int64]
    """[NUM_BINS]: samples whose confidence, the largest probability, is in (bin / NUM_BINS, (bin
    + 1) / NUM_BINS]."""
    correct: NDArray[np.int64]
    """[NUM_BINS]: those of them that were predicted right."""
    confidence: NDArray[np.float64]
    """[NUM_BINS]: the sum of their confidences."""

    def __add__(self, other: "Bins") -> "Bins":
        """Add another batch's or node's sums."""
        return Bins(
            self.count + other.count,
            self.correct + other.correct,
            self.confidence + other.confidence,
        )

    @staticmethod
    def none() -> "Bins":
        """Return the sums of no samples."""
        return Bins(np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS))

    @property
    def expected_error(self) -> float:
        """Mean over samples of |accuracy - confidence| of their bin, in [0, 1].

        NaN without samples.
        """
        samples = self.count.sum()
        return (
            float(np.abs(self.correct - self.confidence).sum() / samples)
            if samples
            else float("nan")
        )

    @staticmethod
    def of(
        log_probabilities: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
    ) -> "Bins":
        """Sort samples into bins.

        Parameters
        ----------
        log_probabilities
            Of each class, in nats.
        labels
            True classes.

        Returns
        -------
        The sums.
        """
        best, predicted = log_probabilities.double().max(dim=1)
        confidence = best.exp().clamp(max=1.0)
        place = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        weights = (torch.ones_like(confidence), (predicted == labels).double(), confidence)
        count, correct, total = (
            torch.bincount(place, w, minlength=NUM_BINS).cpu().numpy() for w in weights
        )

        return Bins(count.astype(np.int64), correct.astype(np.int64), total.astype(np.float64))


def mean_nll(
    found: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], temperature: float
) -> float:
    """Return the mean of -ln softmax(scores / temperature)[true class], in nats."""
    return float(torch.nn.functional.cross_entropy(found.double() / temperature, labels))


def fit_temperature(
    found: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float:
    """Return the temperature with the lowest mean negative log-likelihood.

    With b = 1 / T the mean of ln sum_c exp(b s_c) - b s_y is convex in b, since its second
    derivative is a mean of variances; so the root of its derivative, mean of E_b[s] - s_y, is
    found by halving an interval of ln b.

    Parameters
    ----------
    found
        Scores of the samples: logits, or sums of log-probabilities.
    labels
        True classes.

    Returns
    -------
    T, from LOWEST_TEMPERATURE to HIGHEST_TEMPERATURE.

    Raises
    ------
    CalibrationError
        No samples, samples of one class only, or scores that are not finite.
    """
    if len(labels.unique()) < 2:
        raise CalibrationError(
            f"{len(labels)} samples of {len(labels.unique())} classes: need two classes or more."
        )
    if not found.isfinite().all():
        raise CalibrationError("the scores hold NaN or Inf: the model diverged.")

    values = found.double()
    true = values.gather(1, labels.unsqueeze(1)).mean()

    def slope(log_b: float) -> float:
        expected = (values * (values * math.exp(log_b)).softmax(dim=1)).sum(dim=1).mean()
        return float(expected - true)

    low, high = -math.log(HIGHEST_TEMPERATURE), -math.log(LOWEST_TEMPERATURE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)

    return math.exp(-(low + high) / 2)


def choose(
    candidates: Mapping[str, Float[Tensor, "samples classes"]], labels: Int[Tensor, " samples"]
) -> tuple[str, float]:
    """Choose how to decide.

    The rule whose validation likelihood is best once its temperature is fitted.

    Parameters
    ----------
    candidates
        Rule -> its scores of the validation samples.
    labels
        True classes.

    Returns
    -------
    The rule with the lowest mean negative log-likelihood after temperature scaling, the first of
    equals, and its temperature.

    Raises
    ------
    CalibrationError
        As :func:`fit_temperature`.
    """
    fitted = {rule: fit_temperature(found, labels) for rule, found in candidates.items()}
    best = min(candidates, key=lambda rule: mean_nll(candidates[rule], labels, fitted[rule]))
    return best, fitted[best]


@torch.no_grad()
def calibrate(
    model: MultimodalModel, batches: Iterable[Batch], own: Votes
) -> tuple[Decisions, dict[Subset, str]]:
    """Choose the decision of every subset of the modalities on validation data.

    Parameters
    ----------
    model
        Put into eval mode and back.
    batches
        Samples that were neither trained on nor are reported on. A subset is judged on those
        that have all of it.
    own
        The votes of the method that trained the model.

    Returns
    -------
    The decisions, and for each subset that keeps the method's votes uncalibrated the reason why.
    """
    was_training, device, offered = (
        model.training,
        next(model.parameters()).device,
        rules(model.spec, own),
    )
    labels = {
        subset: [torch.empty(0, dtype=torch.long)] for subset in subsets(model.spec.modalities)
    }
    found = {
        subset: {rule: [torch.empty(0, model.spec.num_classes)] for rule in offered}
        for subset in labels
    }
    model.eval()
    for batch in (batch.to(device) for batch in batches):
        output = model(batch)
        for subset in labels:
            mask, rows = mask_for(subset, model.spec.modalities, batch.present)
            labels[subset].append(batch.labels[rows].cpu())
            for rule, votes in offered.items():
                found[subset][rule].append(scores(model, output, mask, votes)[rows].cpu())

    model.train(was_training)
    chosen, reasons = {}, {}
    for subset in labels:
        candidates = {rule: torch.cat(parts) for rule, parts in found[subset].items()}
        try:
            rule, temperature = choose(candidates, torch.cat(labels[subset]))
            chosen[subset] = Decision(offered[rule], temperature, calibrated=True)
        except CalibrationError as error:
            reasons[subset] = str(error)

    return Decisions(model.spec.modalities, uncalibrated(own), chosen), reasons
