"""What a run leaves: config.json, metrics.jsonl, summary.md and plots, all below one directory."""

import contextlib
import itertools
import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcmi_flwr.lookup import file_name
from fedcmi_flwr.machine.atomic_files import naming, write_atomically
from fedcmi_flwr.machine.extras import require
from fedcmi_flwr.models.file import CARD, MODEL_FILE
from server_app.run.records import json_ready, with_repeats, without_repeats
from server_app.run.summary import summary
from server_app.run.tracking import Trackers

LAUNCH = "launch.json"
"""In a run directory: how ``fedcmi run`` or a bench started it."""


class RunDirectoryError(ValueError):
    """A run directory that cannot be written to."""


def check_new(path: Path) -> None:
    """Raise RunDirectoryError if a directory already holds a run."""
    if (path / "metrics.jsonl").exists():
        raise RunDirectoryError(f"{path}: already holds a run; give another run-dir, or resume it.")


def new_run_dir(parent: Path, method: str, seed: int) -> Path:
    """Make a directory for a run that nobody has named.

    Of runs that begin in the same second, each gets its own.

    Parameters
    ----------
    parent
        Where to; made when missing.
    method
        Name of the method.
    seed
        The run's.

    Returns
    -------
    The new, empty directory: time, method and seed, and a number where that is taken.
    """
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(method)}-seed{seed}"
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    for name in itertools.chain([stem], numbered):  # the numbers do not end
        with contextlib.suppress(FileExistsError):
            (parent / name).mkdir(parents=True)
            break

    return parent / name


class RunDirectory:
    """The directory of one run.

    Parameters
    ----------
    path
        Where the run writes; made when missing.
    plots
        Whether :meth:`finish` draws plots.
    resumed
        Whether it holds a run that goes on.
    trackers
        Where what is written goes too.

    Raises
    ------
    RunDirectoryError
        It already holds a run that does not go on.
    """

    def __init__(
        self,
        path: Path,
        plots: bool = True,
        resumed: bool = False,
        trackers: Trackers | None = None,
    ) -> None:
        if plots:
            require("report", "matplotlib", "scipy")

        self.path = path.absolute()
        self.plots = plots
        self.trackers = trackers or Trackers({}, self.path)
        self._last: Mapping[str, Any] = {}
        """The record that was written last, of which the next one need not repeat everything."""
        if not resumed:
            check_new(self.path)

        self.path.mkdir(parents=True, exist_ok=True)
        # Of an attempt that did not get to its first round
        (self.path / "error.txt").unlink(missing_ok=True)

    @property
    def metrics_path(self) -> Path:
        """One JSON object per round."""
        return self.path / "metrics.jsonl"

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.json"

    @property
    def account_path(self) -> Path:
        """What a run with differential privacy has spent."""
        return self.path / "privacy.json"

    @property
    def matrix_path(self) -> Path:
        """How the model decides from every subset of the modalities, and how well."""
        return self.path / "matrix.json"

    @property
    def card_path(self) -> Path:
        """What a user of the model should know."""
        return self.path / CARD

    @property
    def model_path(self) -> Path:
        """The latest global model."""
        return self.path / MODEL_FILE

    def simulated_nodes(self) -> int | None:
        """Return how many nodes the run was started with, if ``fedcmi run`` or a bench
        started it.
        """
        path = self.path / LAUNCH
        return (
            json.loads(path.read_text(encoding="utf-8")).get("num_nodes")
            if path.is_file()
            else None
        )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config_path, json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.trackers.begin(config)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one round to metrics.jsonl.

        It is on the disk when this returns, as a checkpoint counts on it.
        """
        ready = json.loads(json.dumps(json_ready(record), allow_nan=False))  # as it is read back
        line = json.dumps(without_repeats(ready, self._last)) + "\n"
        with naming(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

        self._last = ready
        self.trackers.record(record)

    def write_account(self, releases: Mapping[int, int]) -> None:
        """Write the privacy account, partition id -> releases.

        It stays as it is when a run goes on from earlier.
        """
        write_atomically(self.account_path, json.dumps({"releases": releases}) + "\n")

    def read_account(self) -> dict[int, int]:
        """Return what :meth:`write_account` wrote.

        Raise RunDirectoryError where that is gone or broken.
        """
        try:
            releases = json.loads(self.account_path.read_bytes())["releases"]
            return {int(partition): int(count) for partition, count in releases.items()}
        except (FileNotFoundError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise RunDirectoryError(
                f"{self.account_path}: what this run with differential privacy has spent cannot "
                f"be read ({error!r}). Restore the file, or start the run again with another "
                "run-dir."
            ) from error

    def rewind(self, server_round: int) -> None:
        """Keep the records up to a round and remove later ones.

        Parameters
        ----------
        server_round
            The last round to keep.

        Raises
        ------
        RunDirectoryError
            One of these rounds is missing.
        """
        lines = _whole_lines(self.path)[: server_round + 1]
        if [json.loads(line)["round"] for line in lines] != list(range(server_round + 1)):
            raise RunDirectoryError(
                f"{self.metrics_path}: does not hold each of the rounds 0 to {server_round}."
            )

        write_atomically(self.metrics_path, "".join(lines))
        self._last = with_repeats(map(json.loads, lines))[-1]

    def write_error(self, error: Exception) -> None:
        """Write why the run failed to error.txt: the reason on the first line, then the traceback.

        Where the disk is full that may be impossible; the reason must not give way to that.
        """
        self.trackers.finish()
        text = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError):
            write_atomically(self.path / "error.txt", f"{type(error).__name__}: {error}\n\n{text}")

    def finish(self, config: Mapping[str, Any], more: Sequence[str] = ()) -> None:
        """Write the plots and then, since a run with a summary is finished, summary.md from
        metrics.jsonl.

        Parameters
        ----------
        config
            As for :meth:`write_config`.
        more
            Lines for the end of summary.md.
        """
        records = read_metrics(self.path)
        dataset = config["dataset"]
        if self.plots:
            # Here: it takes seconds, which every start would pay
            from server_app.figures.plots import (
                plot_run,
            )

            plot_run(records, dataset["modalities"], dataset["classes"], self.path)

        names = [path.name for path in sorted(self.path.glob("*.png"))]
        write_atomically(self.path / "summary.md", summary(records, config, names, more))
        self.trackers.finish([self.path / name for name in names], self.model_path)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run directory, in order.

    A line that is still being written is not there yet.
    """
    return with_repeats(json.loads(line) for line in _whole_lines(directory))


def _whole_lines(directory: Path) -> list[str]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
