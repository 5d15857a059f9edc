"""Disturbs runs at random moments.

Each goes on or says how to in one sentence, and ends as the undisturbed one does.

Run it as ``python tests/chaos/run.py --moments 20 --seed 0``. Every moment is a run of the
command line on Ray (or with ``--engine in-process`` in one process): what ``harms.py`` names in
turn is done to it while it starts or trains. Then

* it ends with status 0, or what it printed has one sentence that says how to go on, and no
  traceback;
* ``fedcmi run --resume`` ends with status 0, or there was no checkpoint yet and the sentence
  says so;
* model and metrics are then those of the run that nothing was done to, bit for bit;
* of its processes none is left.

Exit status 1 where one of these does not hold.
"""

import argparse
import contextlib
import ctypes
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import harms  # noqa: E402

from server_app.run.checkpoint import CHECKPOINTS, stored_checkpoints  # noqa: E402
from server_app.run.directory import read_metrics  # noqa: E402

FEDCMI = [sys.executable, "-m", "server_app.commands.main"]
NODES, ROUNDS = 4, 8
SETTINGS = {
    "method": "scaffold",
    "multimodal-ratio": 0.5,
    "fraction-train": 0.75,
    "local-epochs": 2,
}
"""A method that keeps state on the nodes and on the server, and nodes that take turns."""
EARLY = 0.2
"""Share of the moments that come before the first round has ended."""
LEFT_OVER = 90.0
"""Seconds in which all processes of a run have to be gone after its command."""
GO_ON = "go on with: fedcmi run --resume"
START_AGAIN = ("has no checkpoint yet: start the run again", "nothing was trained yet: make room")


@dataclass
class Run:
    """A run of the command line, watched from outside."""

    process: subprocess.Popen[str]
    began: float = field(default_factory=time.monotonic)
    shown: list[str] = field(default_factory=list)
    """Its lines so far."""

    def __post_init__(self) -> None:
        """Begin to read what it prints."""
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
class Bench:
    """What all moments have in common."""

    folder: Path
    engine: str
    data: str
    limit: float
    clock_library: Path | None

    def start(self, run_dir: Path, *resume: str, clock: Path | None = None) -> Run:
        """Start a run, or go on with one."""
        command = [*FEDCMI, "run", "--engine", self.engine]
        if resume:
            command += resume
        else:
            command += ["--run-dir", str(run_dir), "--data", self.data, "--num-nodes", str(NODES)]
            command += ["--rounds", str(ROUNDS)]
            command += [
                word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")
            ]

        variables = dict(os.environ)
        if clock is not None and self.clock_library is not None:
            variables |= {"LD_PRELOAD": str(self.clock_library), "CHAOS_CLOCK": str(clock)}
        return Run(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )


@dataclass(frozen=True)
class Undisturbed:
    """The run that the others are compared with."""

    directory: Path
    first: float
    """Seconds from the command to the end of round 1."""
    a_round: float
    """Mean seconds of a later round."""


@dataclass(frozen=True)
class Moment:
    """What is done to a run, and when."""

    harm: str
    after: int
    """The round that was shown last; -1: none, the delay counts from the command."""
    delay: float
    """Seconds."""


def undisturbed(bench: Bench) -> Undisturbed:
    """Train once without anything done to the run."""
    directory = bench.folder / "undisturbed"
    run = bench.start(directory)
    run.wait_for_round(1)
    first = time.monotonic() - run.began
    run.wait_for_round(ROUNDS)
    last = time.monotonic() - run.began
    if run.end(bench.limit) != 0:
        raise SystemExit(run.text)
    return Undisturbed(directory, first, (last - first) / (ROUNDS - 1))


def moments(
    count: int, names: list[str], whole: Undisturbed, chance: random.Random
) -> Iterator[Moment]:
    """Draw moments; every kind of harm has its turn."""
    for number in range(count):
        harm = names[number % len(names)]
        if chance.random() < EARLY:
            yield Moment(harm, -1, chance.uniform(0, whole.first))
        else:
            yield Moment(harm, chance.randrange(1, ROUNDS - 1), chance.uniform(0, whole.a_round))


def disturb(
    bench: Bench, whole: Undisturbed, moment: Moment, chance: random.Random
) -> tuple[str, str]:
    """Start a run, do it harm, and see what becomes of it.

    Returns
    -------
    What was done, and how it ended; the latter begins with "WRONG" where that is not right.
    """
    with tempfile.TemporaryDirectory(dir=bench.folder, ignore_cleanup_errors=True) as name:
        folder, clock = Path(name) / "disk", Path(name) / "clock"
        folder.mkdir()
        clock.write_bytes(bytes(ctypes.c_long(0)))
        with contextlib.ExitStack() as stack:
            wants_disk = moment.harm == "full disk"
            has_disk = stack.enter_context(harms.disk_of_its_own(folder)) if wants_disk else False
            run = bench.start(folder / "run", clock=clock if moment.harm == "clock jumps" else None)
            target = harms.Target(psutil.Process(run.process.pid), folder, clock, chance, has_disk)

            if moment.after >= 0:
                run.wait_for_round(moment.after)
            time.sleep(moment.delay)
            family = target.family()
            done = harms.ON_RAY[moment.harm](target) if run.process.poll() is None else ""
            status = run.end(bench.limit)
            harms.filler(folder).unlink(missing_ok=True)
            if not done:
                return "nothing there yet to do it to", _judged(
                    whole, folder / "run", status, run.text
                )
            return done, _ending(bench, whole, folder / "run", moment, status, run, family)


def _ending(
    bench: Bench,
    whole: Undisturbed,
    run_dir: Path,
    moment: Moment,
    status: int | None,
    run: Run,
    family: list[psutil.Process],
) -> str:
    """Return how a run ended to which something was done, and what going on with it gives."""
    if status is None:
        return f"WRONG: still there after {bench.limit:.0f} s:\n{run.text}"
    if status == 0:
        return _judged(whole, run_dir, status, run.text)

    killed = moment.harm == "kill -9 the command"
    if not killed and (wrong := _unexplained(run.text)):
        return f"WRONG: {wrong}:\n{run.text}"
    if left := psutil.wait_procs(family, timeout=LEFT_OVER)[1]:
        return f"WRONG: left over: {[' '.join(process.cmdline())[:200] for process in left]}"

    had = bool(stored_checkpoints(run_dir / CHECKPOINTS))
    again = bench.start(run_dir, "--resume", str(run_dir))
    status = again.end(bench.limit)
    if not had:
        said = status == 1 and "Traceback" not in again.text and "error:" in again.text
        return (
            "says to start again"
            if said
            else f"WRONG: status {status} without a checkpoint:\n{again.text}"
        )
    found = _judged(whole, run_dir, status, again.text)
    return found if found.startswith("WRONG") else f"resumed: {found}"


def _unexplained(text: str) -> str:
    """Return what is wrong with the words of a run that ended early; empty: nothing."""
    if "Traceback" in text:
        return "a traceback"
    ways = [
        line
        for line in text.splitlines()
        if GO_ON in line or any(words in line for words in START_AGAIN)
    ]
    return "" if len(ways) == 1 else f"{len(ways)} sentences that say how to go on"


def _judged(whole: Undisturbed, run_dir: Path, status: int | None, text: str) -> str:
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


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Disturb runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("flower", "in-process"), default="flower")
    parser.add_argument(
        "--only", help="kinds of harm, joined by commas; default: all that the engine has"
    )
    parser.add_argument(
        "--data", default="av-digits", help="built-in data set or prepared directory"
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds that a command may take")
    options = parser.parse_args()
    known = harms.ON_RAY if options.engine == "flower" else harms.IN_PROCESS
    names = options.only.split(",") if options.only else list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--only: no {', '.join(unknown)}; there is {', '.join(known)}")

    with tempfile.TemporaryDirectory(prefix="fedcmi-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        library = harms.clock_library(folder)
        if library is None and "clock jumps" in names:
            names.remove("clock jumps")
            say("clock jumps: left out, no C compiler (cc) here")

        bench = Bench(folder, options.engine, options.data, options.limit, library)
        whole, chance = undisturbed(bench), random.Random(options.seed)
        say(f"undisturbed: round 1 after {whole.first:.1f} s, then {whole.a_round:.2f} s a round")
        wrong = 0
        for number, moment in enumerate(moments(options.moments, names, whole, chance), start=1):
            done, ending = disturb(bench, whole, moment, chance)
            wrong += ending.startswith("WRONG")
            when = "starting" if moment.after < 0 else f"round {moment.after}"
            say(f"{number:>3} {moment.harm:<20} {when} + {moment.delay:.1f} s ({done}): {ending}")
        say(f"{options.moments} moments, seed {options.seed}: {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
