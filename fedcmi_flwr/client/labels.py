"""Labels of a batch as the losses need them, and fused logits that fit them."""

from typing import Any

import torch
from torch import Tensor


def as_labels(labels: Any, num_classes: int) -> Tensor:  # noqa: ANN401
    """Return class numbers in 64 bits.

    Parameters
    ----------
    labels
        [batch], integers of any width, from 0 to num_classes - 1; on a GPU the range is not
        looked at, which would wait for it in every step.
    num_classes
        C.

    Returns
    -------
    [batch], int64.

    Raises
    ------
    TypeError
        No tensor, or one of other numbers than integers.
    ValueError
        Another shape, or a class that there is not.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels: need a tensor [batch] of class numbers, found {type(labels).__name__}."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"labels: need class numbers [batch], found shape {list(labels.shape)}; of one-hot "
            "rows labels.argmax(1), of a column labels.squeeze(1)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"labels: need integers, the class numbers, found {labels.dtype}; labels.long() makes "
            "them so."
        )

    if labels.device.type == "cpu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels: found class numbers from {low} to {high}, but the strategy has "
                f"num_classes={num_classes}, which are 0 to {num_classes - 1}; count the classes "
                "from 0, or change num_classes of FedCMI."
            )

    return labels.long()


def check_logits(logits: Tensor, num_classes: int) -> None:
    """Raise ValueError unless fused logits are [batch, num_classes]."""
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"outputs: fused logits of shape {list(logits.shape)}, need [batch, {num_classes}], "
            "as num_classes of FedCMI says; the call is objective(outputs, labels)."
        )
