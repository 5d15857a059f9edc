"""Runs of ``fedcmi run`` that are done harm: on Ray, or in one process."""

import contextlib
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import harms
import psutil
from judging import (
    FEDCMI,
    LEFT_OVER,
    Moment,
    Run,
    Undisturbed,
    judged,
    measured,
    new_clock,
    refused_well,
    unexplained,
    watched,
)

from server_app.run.checkpoint import CHECKPOINTS, stored_checkpoints

NODES, ROUNDS = 4, 8
SETTINGS = {
    "method": "scaffold",
    "multimodal-ratio": 0.5,
    "fraction-train": 0.75,
    "local-epochs": 2,
}
"""A method that keeps state on the nodes and on the server, and nodes that take turns."""


@dataclass(frozen=True)
class Simulations:
    """What all moments have in common."""

    folder: Path
    engine: str
    data: str
    limit: float
    clock_library: Path | None

    @property
    def harms(self) -> Mapping[str, harms.Harm]:
        """What can be done to a run."""
        return harms.ON_RAY if self.engine == "flower" else harms.IN_PROCESS

    def undisturbed(self) -> Undisturbed:
        """Train once without anything done to the run."""
        directory = self.folder / "undisturbed"
        return measured(self._start(directory), directory, ROUNDS, self.limit)

    def disturb(self, whole: Undisturbed, moment: Moment, chance: random.Random) -> tuple[str, str]:
        """Start a run, do it harm, and see what becomes of it."""
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            folder, clock = Path(name) / "disk", new_clock(Path(name) / "clock")
            folder.mkdir()
            with contextlib.ExitStack() as stack:
                full = moment.harm == "full disk"
                has_disk = stack.enter_context(harms.disk_of_its_own(folder)) if full else False
                jumps = moment.harm == "clock jumps"
                run = self._start(folder / "run", clock=clock if jumps else None)
                target = harms.Target(run.known, folder, clock, chance, has_disk)

                if moment.after >= 0:
                    run.wait_for_round(moment.after)
                time.sleep(moment.delay)
                family = target.family()
                done = self.harms[moment.harm](target) if run.process.poll() is None else ""
                status = run.end(self.limit)
                harms.filler(folder).unlink(missing_ok=True)
                if not done:
                    ending = judged(whole, folder / "run", status, run.text)
                    return "nothing there yet to do it to", ending
                return done, self._ending(whole, folder / "run", moment, status, run, family)

    def finish(self, whole: Undisturbed) -> str:
        """Leave nothing to be done: each moment has a run of its own."""
        return ""

    def _start(self, run_dir: Path, *resume: str, clock: Path | None = None) -> Run:
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
        return watched(command, self.clock_library, clock)

    def _ending(
        self,
        whole: Undisturbed,
        run_dir: Path,
        moment: Moment,
        status: int | None,
        run: Run,
        family: list[psutil.Process],
    ) -> str:
        """Return how a run ended to which something was done, and what going on with it gives."""
        if status is None:
            return f"WRONG: still there after {self.limit:.0f} s:\n{run.text}"
        if status == 0:
            return judged(whole, run_dir, status, run.text)

        killed = moment.harm == harms.KILL_THE_COMMAND
        if not killed and (wrong := unexplained(run.text)):
            return f"WRONG: {wrong}:\n{run.text}"
        if left := psutil.wait_procs(family, timeout=LEFT_OVER)[1]:
            return f"WRONG: left over: {[' '.join(process.cmdline())[:200] for process in left]}"

        had = bool(stored_checkpoints(run_dir / CHECKPOINTS))
        again = self._start(run_dir, "--resume", str(run_dir))
        status = again.end(self.limit)
        if not had:
            return (
                "says to start again"
                if refused_well(status, again.text)
                else f"WRONG: status {status} without a checkpoint:\n{again.text}"
            )
        found = judged(whole, run_dir, status, again.text)
        return found if found.startswith("WRONG") else f"resumed: {found}"
