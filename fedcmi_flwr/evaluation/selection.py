"""Figures of one model on validation data, by which the best round is chosen."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from fedcmi_flwr.evaluation.decision import scores
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, Votes


@torch.no_grad()
def selection_figures(
    model: MultimodalModel, batches: Iterable[Batch], votes: Votes
) -> dict[str, float]:
    """Return the figures of the fused prediction by which the best round is chosen.

    Parameters
    ----------
    model
        Put into eval mode.
    batches
        Validation samples.
    votes
        How the fused prediction is made.

    Returns
    -------
    One of ``config.selection.METRICS`` -> figure, in [0, 1]; NaN without samples.
    """
    model.eval()
    classes = model.spec.num_classes
    table = np.zeros((classes, classes), dtype=np.int64)
    for batch in batches:
        predicted = scores(model, model(batch), batch.present, votes).argmax(dim=1)
        rows = batch.present.any(dim=1)
        pairs = batch.labels[rows] * classes + predicted[rows]
        table += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu().numpy()

    return figures_of(table)


def figures_of(table: NDArray[np.int64]) -> dict[str, float]:
    """Return the figures of a confusion matrix.

    Parameters
    ----------
    table
        [classes, classes]: samples of each class (row) by the class that was predicted.

    Returns
    -------
    As for :func:`selection_figures`; means and minimum are over the classes that have samples.

    Examples
    --------
    3 of 4 and 1 of 2 right: accuracies 0.75 and 0.5, F1 of 6/8 and 2/4.

    >>> figures_of(np.array([[3, 1], [1, 1]]))
    {'fused': 0.6666666666666666, 'macro': 0.625, 'worst-class': 0.5, 'f1': 0.625}
    """
    right, count, predicted = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    present = count > 0
    if not present.any():
        return dict.fromkeys(("fused", "macro", "worst-class", "f1"), float("nan"))

    accuracy = right[present] / count[present]
    f1 = 2 * right[present] / (count + predicted)[present]

    return {
        "fused": float(right.sum() / count.sum()),
        "macro": float(accuracy.mean()),
        "worst-class": float(accuracy.min()),
        "f1": float(f1.mean()),
    }
