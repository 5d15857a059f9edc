"""How long a run is waited for whose ServerApp has failed."""

import time
from pathlib import Path

AFTER_ERROR = 30.0
"""Seconds after a ServerApp has failed in which Flower may end the run; Ray sometimes never lets
it."""


class Patience:
    """How long a run is waited for whose ServerApp has failed.

    Parameters
    ----------
    run_dir
        Where the ServerApp says why it failed.
    """

    def __init__(self, run_dir: Path) -> None:
        self._error = run_dir / "error.txt"
        self._since: float | None = None

    def is_over(self) -> bool:
        """Return whether the run should have ended by now."""
        if not self._error.is_file():
            self._since = None
            return False

        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > AFTER_ERROR
