"""The time after which a node stops training in a round."""

import time
from collections.abc import Iterator

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
