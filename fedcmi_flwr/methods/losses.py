"""The equations of ``methods/README.md`` as pure functions of tensors.

Every one is vectorised over the batch.

Source: arXiv 2401.00894, sections 3.2 (cross-modal infiltration) and 3.3 (class-wise temperature
adaptation).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_PROBABILITY = 1e-6
"""p_{m,c} is clamped to at least this before its logarithm is taken."""


def masked_mean(values: Float[Tensor, " batch"], rows: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean over the samples in ``rows``; 0 when there is none."""
    weight = rows.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    rows: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats over the samples in ``rows``."""
    return masked_mean(F.cross_entropy(logits, labels, reduction="none"), rows)


def knowledge_distillation(
    teacher_logits: Float[Tensor, "batch classes"],
    student_logits: Float[Tensor, "batch classes"],
    temperature: Float[Tensor, " batch"],
    rows: Bool[Tensor, " batch"],
    scale_by_temperature: bool = False,
) -> Float[Tensor, ""]:
    """Return KD: the mean cross-entropy between the softened teacher and student.

    Per sample: - sum_c softmax(teacher / T)[c] * log_softmax(student / T)[c].

    Parameters
    ----------
    teacher_logits
        [batch, classes]: the teacher's; no gradient flows into them.
    student_logits
        [batch, classes]: the student's.
    temperature
        [batch]: T of each sample, above 0.
    rows
        [batch]: the samples that count.
    scale_by_temperature
        Multiply each sample's loss by T^2 (Hinton et al., 2015), which keeps gradients of the
        size of T = 1.

    Returns
    -------
    Scalar in nats, 0 or greater.
    """
    column = temperature.unsqueeze(1)
    teacher = F.softmax(teacher_logits.detach() / column, dim=1)
    loss = -(teacher * F.log_softmax(student_logits / column, dim=1)).sum(dim=1)
    if scale_by_temperature:
        loss = loss * temperature.square()

    return masked_mean(loss, rows)


def mean_log_probability(
    logits: Float[Tensor, "modalities batch classes"], rows: Bool[Tensor, "modalities batch"]
) -> Float[Tensor, "batch classes"]:
    """Return the consensus of a sample's modalities: the mean of their log-probabilities.

    Their sum would be that of independent witnesses. Modalities of one event are not
    independent, and the sum is far too sure of itself to teach.

    Parameters
    ----------
    logits
        [modalities, batch, classes].
    rows
        [modalities, batch]: which sample has which modality.

    Returns
    -------
    [batch, classes]; 0 for a sample without any modality.
    """
    weight = rows.to(logits.dtype).unsqueeze(2)
    return (logits.log_softmax(dim=2) * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1)


def true_class_probability(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return softmax(logits)[true class] of each sample, without gradient."""
    return F.softmax(logits.detach(), dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)


def log_class_probability(
    probability_sum: Float[Tensor, "modalities classes"], count: Float[Tensor, "modalities classes"]
) -> Float[Tensor, "modalities classes"]:
    """Return ln p_{m,c} from sums and counts, p clamped to [MIN_PROBABILITY, 1].

    NaN where a class has no sample.
    """
    probability = (probability_sum / count).clamp(MIN_PROBABILITY, 1.0)
    return torch.where(count > 0, probability.log(), torch.nan)


def dominant_modality(
    log_probability: Float[Tensor, "modalities classes"], candidates: Sequence[bool]
) -> int | None:
    """Return the index of d = argmax_m of the mean over classes of ln p_{m,c}.

    Only classes that every candidate has samples of are compared, so that no modality wins by
    being measured on easier classes.

    Parameters
    ----------
    log_probability
        [modalities, classes], NaN where a class has no sample.
    candidates
        [modalities]: which modalities compete.

    Returns
    -------
    Index of d, or None: fewer than two candidates, or no class that all of them have seen.
    """
    rows = [index for index, candidate in enumerate(candidates) if candidate]
    if len(rows) < 2:
        return None

    compared = log_probability[rows]
    seen_by_all = ~compared.isnan().any(dim=0)
    if not bool(seen_by_all.any()):
        return None

    return rows[int(compared[:, seen_by_all].mean(dim=1).argmax())]


def class_ratio(
    log_dominant: Float[Tensor, " classes"], log_weak: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """Return r_{m,c} = p_{d,c} / p_{m,c} from logs.

    NaN where either modality has no sample of the class.
    """
    return (log_dominant - log_weak).exp()


def class_temperature(ratio: Float[Tensor, " classes"], kappa: float) -> Float[Tensor, " classes"]:
    """Return T_{m,c} from r_{m,c}.

    Below 1 where the weak modality lags more than its mean over classes.

    T = 1 / (1 + kappa ln(r / rbar)) where r > rbar, else 1; rbar is the mean of r over the
    classes with samples.

    Parameters
    ----------
    ratio
        [classes]: r_{m,c}, NaN where the class has no sample.
    kappa
        Strength, 0 or greater; 0 gives T = 1 everywhere.

    Returns
    -------
    [classes] in (0, 1]; 1 for classes without samples.

    Examples
    --------
    >>> class_temperature(torch.tensor([1.0, 3.0, float("nan")]), kappa=2.0)
    tensor([1.0000, 0.5522, 1.0000])
    """
    excess = kappa * (ratio / ratio.nanmean()).log()
    return torch.where(excess > 0, 1 / (1 + excess.clamp(min=0)), torch.ones_like(ratio))
