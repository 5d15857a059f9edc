"""Progress of a run, shown while it goes on."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedcmi_flwr.run_config import RunConfig
from server_app.launch.time_left import TimeLeft
from server_app.run.directory import read_metrics
from server_app.run.records import round_line
from server_app.run.resume import records_kept

Show = Callable[[str], None]
"""Called with one line."""


class StartUp:
    """Where the time before the first round of a run on Flower goes.

    Made when the run is asked for.
    """

    def __init__(self) -> None:
        self.begin = time.time()
        self.running = 0.0

    def note_running(self) -> None:
        """Note, once, that there is a SuperLink and ``flwr run`` was called."""
        self.running = self.running or time.time()

    def line(self, loaded: float, record: Mapping[str, Any]) -> str:
        """Return the breakdown in one line.

        Parameters
        ----------
        loaded
            Unix time at which the ServerApp had its data and model.
        record
            Of the first round that was trained.

        Returns
        -------
        The line.
        """
        asking, training = record["asking_seconds"], record["seconds"] - record["asking_seconds"]
        return (
            f"start-up: SuperLink {self.running - self.begin:.1f} s, bundle and server "
            f"{loaded - self.running:.1f} s, Ray's actors and the nodes' answers {asking:.1f} s; "
            f"first round then {training:.1f} s"
        )


class RoundProgress:
    """Shows the rounds of a run directory as they appear.

    Parameters
    ----------
    run_dir
        The run's directory; it may not exist yet.
    config
        The run's configuration.
    show
        Called with one line a round.
    start_up
        Shown before the first round that is trained; None: no word about it.
    """

    def __init__(
        self, run_dir: Path, config: RunConfig, show: Show, start_up: StartUp | None = None
    ) -> None:
        self.run_dir = run_dir
        self.start_up = start_up
        self.rounds = config.federation.num_server_rounds
        self.show = show
        self.left = TimeLeft(self.rounds)
        self.size = 0
        self.shown = records_kept(run_dir) if config.checkpoints.resume else 0

    def update(self) -> None:
        """Show the rounds that are new since the last call."""
        if self.start_up is not None:
            self.start_up.note_running()

        metrics = self.run_dir / "metrics.jsonl"
        if not metrics.is_file() or metrics.stat().st_size == self.size:
            # What a long run has is long to read
            return

        self.size = metrics.stat().st_size
        records = read_metrics(self.run_dir)
        for record in records[self.shown :]:
            if self.start_up is not None and record["round"] > 0:
                self.show(
                    self.start_up.line((self.run_dir / "config.json").stat().st_mtime, record)
                )
                self.start_up = None

            self.left.note(record["round"])
            self.show(" | ".join(filter(None, [round_line(record, self.rounds), self.left.text()])))

        self.shown = len(records)
