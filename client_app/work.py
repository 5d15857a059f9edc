"""A node's own amount of work in a round: its epochs, and the time after which it stops."""

import time
from collections.abc import Iterator
from dataclasses import replace

from client_app.node import Node
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.types import Batch


class Budget:
    """Time for training; it begins with the first batch.

    Parameters
    ----------
    seconds
        0: as long as it takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._end: float | None = None

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def within(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches while there is time: the first one in any case."""
        if self._seconds > 0 and self._end is None:
            self._end = time.monotonic() + self._seconds
        for batch in batches:
            yield batch
            if self.spent:
                return


def own_work(node: Node, settings: TrainingConfig) -> tuple[TrainingConfig, Budget]:
    """Return how a node trains in a round.

    Parameters
    ----------
    node
        The node; what its own configuration says comes before the run's.
    settings
        What the server sent.

    Returns
    -------
    The settings with the node's epochs, and its time.
    """
    epochs = node.run.work.epochs_of(node.config.partition_id, settings.local_epochs)
    seconds = node.run.work.time_budget if node.config.time_budget is None else node.config.time_budget
    return replace(settings, local_epochs=node.config.local_epochs or epochs), Budget(seconds)
