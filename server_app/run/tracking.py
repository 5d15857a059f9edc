"""Live tracking of a run: what is shown elsewhere while it goes on. No tracker can end a run.

A tracker is a class with the methods of :class:`Tracker`. ``trackers.py`` has those that are
built in; one of another package is named by its entry point in ``fedcmi.trackers`` or by
"package.module:Name".
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from server_app.run.records import json_ready
from server_app.run.scalars import scalars

PRIVATE = ("data", "run-dir", "pretrained", "start-from")
"""Keys with paths of the server's machine, which are no business of a service."""
logger = logging.getLogger("flwr.fedcmi")


class Tracker(Protocol):
    """Where figures go while a run goes on."""

    def begin(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Start, or go on where the run in this directory was before.

        Parameters
        ----------
        run_dir
            The run's directory; its path tells runs apart.
        settings
            Key -> value of the run-config.
        """

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Take a round's figures, by tag.

        A round may come again after a resume, with the same figures.
        """

    def finish(self, plots: Sequence[Path], model: Path | None) -> None:
        """Take what a finished run leaves, and close; a run that failed leaves nothing."""


class Trackers:
    """All trackers of a run; one that raises is named and left out from then on.

    Parameters
    ----------
    trackers
        Name -> tracker.
    run_dir
        The run's directory.
    """

    def __init__(self, trackers: Mapping[str, Tracker], run_dir: Path) -> None:
        self._trackers = dict(trackers)
        self._run_dir = run_dir
        self._classes: Sequence[str] = ()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Start them with config.json."""
        self._classes = config["dataset"]["classes"]
        plain = {
            key: value
            for key, value in config.items()
            if isinstance(value, bool | int | float | str)
        }
        settings = {key: value for key, value in plain.items() if key not in PRIVATE}
        self._each(lambda tracker: tracker.begin(self._run_dir, settings))

    def record(self, record: Mapping[str, Any]) -> None:
        """Give them a round's record."""
        if self._trackers:
            figures = {tag: value for tag, value, _ in scalars(json_ready(record), self._classes)}
            self._each(lambda tracker: tracker.log(figures, record["round"]))

    def finish(self, plots: Sequence[Path] = (), model: Path | None = None) -> None:
        """Give them what the run leaves, and close them."""
        self._each(lambda tracker: tracker.finish(plots, model))
        self._trackers = {}

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # whatever a service does, the run goes on
                logger.warning("track = %r: it is left out from now on: %r", name, error)
                del self._trackers[name]
