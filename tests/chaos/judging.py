"""A command that something is done to, and what it has to show: it says how to go on, and ends as
the undisturbed one does.
"""

import contextlib
import ctypes
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from harms import Harm
from safetensors.numpy import load_file

from server_app.run.directory import read_metrics

ROOT = Path(__file__).resolve().parents[2]
FEDCMI = [sys.executable, "-m", "server_app.commands.main"]
EARLY = 0.2
"""Share of the moments that come before the first round has ended."""
LEFT_OVER = 90.0
"""Seconds in which all processes of a run have to be gone after its command."""
GO_ON = "go on with: fedcmi "
START_AGAIN = ("has no checkpoint yet: start the run again", "nothing was trained yet: make room")


@dataclass
class Run:
    """A command line that trains, watched from outside."""

    process: subprocess.Popen[str]
    began: float = field(default_factory=time.monotonic)
    shown: list[str] = field(default_factory=list)
    """Its lines so far."""

    def __post_init__(self) -> None:
        """Begin to read what it prints."""
        self.known = psutil.Process(self.process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.shown.append(line)

    def wait_for_round(self, server_round: int) -> bool:
        """Return whether a round was shown before the command ended."""
        begin = f"round {server_round}/"
        while not any(line.startswith(begin) for line in self.shown):
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def rounds_shown(self) -> int:
        """Return how many rounds it has shown."""
        return sum(line.startswith("round ") for line in self.shown)

    def wait_for_rounds(self, count: int) -> bool:
        """Return whether so many rounds were shown before the command ended."""
        while self.rounds_shown() < count:
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def started(self) -> list[psutil.Process]:
        """Return the processes that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return self.known.children(recursive=True)
        return []

    def end(self, limit: float) -> int | None:
        """Return the exit status; None: it is still there after the limit, and killed."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        self._reader.join(5)
        return status

    @property
    def text(self) -> str:
        """All that it printed."""
        return "".join(self.shown)


@dataclass(frozen=True)
class Moment:
    """What is done to a run, and when."""

    harm: str
    after: int
    """The round that was shown last; -1: none, the delay counts from the command."""
    delay: float
    """Seconds."""


@dataclass(frozen=True)
class Undisturbed:
    """The run that the others are compared with."""

    directory: Path
    rounds: int
    first: float
    """Seconds from the command to the end of round 1."""
    a_round: float
    """Mean seconds of a later round."""

    def moments(self, count: int, names: Sequence[str], chance: random.Random) -> Iterator[Moment]:
        """Draw moments; every kind of harm has its turn."""
        for number in range(count):
            harm = names[number % len(names)]
            if chance.random() < EARLY:
                yield Moment(harm, -1, chance.uniform(0, self.first))
            else:
                after = chance.randrange(1, self.rounds - 1)
                yield Moment(harm, after, chance.uniform(0, self.a_round))


class Engine(Protocol):
    """Where runs are done harm."""

    harms: Mapping[str, Harm]

    def undisturbed(self) -> Undisturbed:
        """Train once without anything done to the run."""

    def disturb(self, whole: Undisturbed, moment: Moment, chance: random.Random) -> tuple[str, str]:
        """Start a run, do it harm, and see what becomes of it.

        Returns
        -------
        What was done, and how it ended; the latter begins with "WRONG" where that is not right.
        """

    def finish(self, whole: Undisturbed) -> str:
        """Let a run that is left from the last moment come to its end.

        Returns
        -------
        As the end of a moment; empty where none is left.
        """


def watched(command: Sequence[str], library: Path | None, clock: Path | None) -> Run:
    """Start a command, with a clock of its own where there is one."""
    return Run(
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(os.environ) | clock_variables(library, clock),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


def new_clock(path: Path) -> Path:
    """Make a clock that is right."""
    path.write_bytes(bytes(ctypes.c_long(0)))
    return path


def clock_variables(library: Path | None, clock: Path | None) -> dict[str, str]:
    """Return what a process needs that asks a clock of its own."""
    if library is None or clock is None:
        return {}
    return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock)}


def measured(run: Run, directory: Path, rounds: int, limit: float) -> Undisturbed:
    """Watch a run to which nothing is done."""
    run.wait_for_round(1)
    first = time.monotonic() - run.began
    run.wait_for_round(rounds)
    last = time.monotonic() - run.began
    if run.end(limit) != 0:
        raise SystemExit(run.text)
    return Undisturbed(directory, rounds, first, (last - first) / (rounds - 1))


def unexplained(text: str) -> str:
    """Return what is wrong with the words of a run that ended early; empty: nothing."""
    if "Traceback" in text:
        return "a traceback"
    ways = [
        line
        for line in text.splitlines()
        if GO_ON in line or any(words in line for words in START_AGAIN)
    ]
    return "" if len(ways) == 1 else f"{len(ways)} sentences that say how to go on"


def refused_well(status: int | None, text: str) -> bool:
    """Return whether a command that cannot do what it is asked says why."""
    return status == 1 and "Traceback" not in text and "error:" in text


def judged(whole: Undisturbed, run_dir: Path, status: int | None, text: str) -> str:
    """Compare a finished run with the undisturbed one."""
    if status != 0:
        return f"WRONG: status {status}:\n{text}"
    if _weights(run_dir) != _weights(whole.directory):
        return "WRONG: other weights"
    if _records(run_dir) != _records(whole.directory):
        return "WRONG: other metrics"
    return "equal"


def _weights(run_dir: Path) -> dict[str, bytes]:
    return {
        name: value.tobytes() for name, value in load_file(run_dir / "model.safetensors").items()
    }


def _records(run_dir: Path) -> list[dict[str, Any]]:
    """Return the metrics without what clocks say."""
    return [
        {**record, "seconds": 0, "asking_seconds": 0, "train_seconds": {}}
        for record in read_metrics(run_dir)
    ]
