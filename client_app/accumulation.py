"""One step over several batches, with the memory of one.

The gradient is that of all their samples.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from fedcmi_flwr.client import LocalObjective
from fedcmi_flwr.client.adamw import AdamW
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch


def grouped(batches: Iterator[Batch], size: int) -> Iterator[Iterator[Batch]]:
    """Yield ``size`` batches at a time, each made when it is its turn.

    The last group may be smaller.
    """
    for first in batches:
        yield chain([first], islice(batches, size - 1))


def accumulated_step(
    model: MultimodalModel,
    batches: Iterable[Batch],
    objective: LocalObjective,
    optimizer: SGD | AdamW,
) -> None:
    """Take one step along the mean of the batches' gradients, each weighted by its samples.

    Parameters
    ----------
    model
        In training mode; changed in place.
    batches
        One or more, on the model's device; all are consumed.
    objective
        The method's, of this round.
    optimizer
        Over the model's trained parameters.
    """
    optimizer.zero_grad()
    samples = 0
    for batch in batches:
        loss = objective(model(batch), batch.labels) * len(batch.labels)
        loss.backward()
        samples += len(batch.labels)

    for parameter in optimizer.parameters:
        if parameter.grad is not None:
            parameter.grad /= samples

    objective.step(optimizer)
