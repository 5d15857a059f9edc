"""Runs of ``fedcmi deploy run`` that are done harm, on a deployment rehearsed once for all of them.

Both devices take part in every round, and a round without one of them ends the run: it goes on
from its checkpoint, and comes to what the undisturbed one comes to. A run that went on is the one
that the next moment disturbs, until its last round is over; then it is judged.
"""

import contextlib
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import deployment_harms
import psutil
from deployment_harms import Deployed
from harms import KILL_THE_COMMAND, Harm, disk_of_its_own, filler
from judging import Moment, Run, Undisturbed, judged, measured, new_clock, refused_well, unexplained
from rehearsed import DEVICES, SERVERS, Rehearsed

from server_app.run.checkpoint import CHECKPOINTS, stored_checkpoints

ROUNDS = 4
SETTINGS = {
    "num-server-rounds": ROUNDS,
    "local-epochs": 2,
    "batch-size": 8,
    "fraction-train": 1.0,
    "min-train-nodes": len(DEVICES),
    "min-available-nodes": len(DEVICES),
    "min-replies": len(DEVICES),
    "failure-budget": 0,
}
"""A round without a reply of each device ends the run; nothing is averaged without one."""
LONG = {"round-timeout": 3600.0, "wait-timeout": 3600.0}
LEAST = {"round-timeout": 30.0, "wait-timeout": 120.0}
"""Seconds that a device is waited for at least; a busy machine's is waited for longer."""
TIMES = 4
"""What an undisturbed run takes that many times over is missing."""
MOST_TRIES = 6
BUSY = ("another process still writes this run", "another process is training there")
"""What is said of a run whose command was killed, while its server goes on."""


@dataclass
class Going:
    """A run that is disturbed, with one command after the other."""

    run_dir: Path
    disk: Path
    has_disk: bool
    clock: Path
    stack: contextlib.ExitStack
    """What there is for it alone."""
    command: Run
    tries: int = 0
    """Commands in a row that went on with it and showed no round."""
    began: list[psutil.Process] = field(default_factory=list)
    """What killed commands had started, which follows the run to its end."""


class Deployments:
    """Runs on one rehearsed deployment.

    Parameters
    ----------
    site
        The deployment, which is up.
    """

    harms: Mapping[str, Harm] = deployment_harms.ON_DEPLOYMENT

    def __init__(self, site: Rehearsed) -> None:
        self.site = site
        self.patience = LONG
        self.going: Going | None = None
        self.said: list[str] = []
        """What became of runs and commands, since it was last asked for."""

    def undisturbed(self) -> Undisturbed:
        """Train once without anything done to the run."""
        directory = self.site.folder / "undisturbed"
        whole = measured(self._begin(directory, None), directory, ROUNDS, self.site.limit)
        taken = {"round-timeout": whole.a_round, "wait-timeout": whole.first}
        self.patience = {key: max(LEAST[key], TIMES * taken[key]) for key in taken}
        return whole

    def disturb(self, whole: Undisturbed, moment: Moment, chance: random.Random) -> tuple[str, str]:
        """Do harm to the run that goes on, or to a new one, and see what becomes of it.

        What has died is started again, at once or when the command has ended.
        """
        going = self._wait_for(whole, moment)
        command, shown = going.command, going.command.rounds_shown()
        target = self._target(going, chance)
        began = command.started()
        is_there = command.process.poll() is None
        done = self.harms[moment.harm](target) if is_there else ""
        kills = bool(done) and "kill -9" in moment.harm
        at_once = kills and chance.random() < 0.5
        if at_once:
            self.said.append(self.site.start_again())
        status = self._ended_or_goes_on(command, shown)
        self._mend(target)
        self.said.append(self.site.start_again())
        killed = moment.harm == KILL_THE_COMMAND and bool(done)
        self._follow(whole, status, began, killed)

        when = "started again at once" if at_once else "then started again"
        done += f", {when}" if kills else ""
        where = f"{done or 'nothing there to do it to'}; {shown} lines of rounds before"
        return where, self._all_said()

    def finish(self, whole: Undisturbed) -> str:
        """Let the run that goes on come to its end, and return what it comes to."""
        while self.going is not None:
            self._follow(whole, self.going.command.end(self.site.limit), [])
        return self._all_said()

    def _wait_for(self, whole: Undisturbed, moment: Moment) -> Going:
        """Return a run at a moment: while its command starts, or after one round more."""
        while True:
            going = self.going or self._new()
            command = going.command
            if moment.after < 0:
                time.sleep(max(0.0, command.began + moment.delay - time.monotonic()))
                return going
            if command.wait_for_rounds(command.rounds_shown() + 1):
                going.tries = 0
                time.sleep(moment.delay)
                return going
            self._follow(whole, command.end(self.site.limit), [])

    def _follow(
        self,
        whole: Undisturbed,
        status: int | None,
        began: list[psutil.Process],
        killed: bool = False,
    ) -> None:
        """Note what became of a command, and go on with its run where that is not over.

        Parameters
        ----------
        whole
            The undisturbed run.
        status
            The command's; None: it is still there.
        began
            What the command has started.
        killed
            Whether it could say nothing.
        """
        going = self.going
        assert going is not None
        text = going.command.text
        if status is None and going.command.process.poll() is None:
            self.said.append("goes on")
        elif status is None:
            self._over(f"WRONG: still there after {self.site.limit:.0f} s:\n{text}")
        elif status == 0:
            self._over(judged(whole, going.run_dir, 0, text))
        elif not killed and (wrong := unexplained(text)):
            self._over(f"WRONG: {wrong}:\n{text}")
        else:
            if any(words in text for words in BUSY):
                self.said.append("waits for its server")
                self.site.wait_for_the_server_app()
            elif killed:
                going.began += began
            else:
                self.said.append(self.site.left_of(began))
            self._resume(whole)

    def _resume(self, whole: Undisturbed) -> None:
        """Call what goes on with a run; what has no checkpoint is started again."""
        going = self.going
        assert going is not None
        going.tries += 1
        if going.tries > MOST_TRIES:
            return self._over(f"WRONG: does not go on:\n{going.command.text}")

        serves = self.site.is_serving()
        had = bool(stored_checkpoints(going.run_dir / CHECKPOINTS))
        where = ["--run-dir", str(going.run_dir), "--resume"]
        going.command = self.site.fedcmi("run", str(self.site.kit), *where, clock=going.clock)
        if had:
            self.said.append("resumed")
            return None

        status, text = going.command.end(self.site.limit), going.command.text
        if status == 0:  # its server has ended it meanwhile
            return self._over(judged(whole, going.run_dir, 0, text))
        if not refused_well(status, text):
            return self._over(f"WRONG: status {status} without a checkpoint:\n{text}")
        if not serves:
            return self._over("says to start again")
        self.said.append("waits for its server")
        self.site.wait_for_the_server_app()
        return self._resume(whole)

    def _over(self, what: str) -> None:
        """Note how a run ended; the next moment has a new one."""
        assert self.going is not None
        self.said.append(what)
        psutil.wait_procs(self.going.began, timeout=self.site.limit)
        self.site.wait_for_the_server_app()
        self.said.append(self.site.left_of(self.going.began))
        self.going.stack.close()
        self.going = None

    def _ended_or_goes_on(self, command: Run, shown: int) -> int | None:
        """Return a command's exit status; None when it has shown one round more, or hangs and was
        killed.
        """
        deadline = time.monotonic() + self.site.limit
        while time.monotonic() < deadline:
            if command.process.poll() is not None:
                return command.end(self.site.limit)
            if command.rounds_shown() > shown:
                return None
            time.sleep(0.1)
        return command.end(0)

    def _all_said(self) -> str:
        said, self.said = [each for each in self.said if each], []
        return "; ".join(sorted(said, key=lambda each: not each.startswith("WRONG")))

    def _mend(self, target: Deployed) -> None:
        """Make room on the disks, and set the clocks right."""
        filler(target.folder).unlink(missing_ok=True)
        filler(target.device_disk).unlink(missing_ok=True)
        deployment_harms.may_grow_again(target.of(target.device))
        new_clock(target.clock)
        new_clock(target.device_clock)

    def _new(self) -> Going:
        """Begin a run with a disk and a clock of its own."""
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(
                dir=self.site.folder, ignore_cleanup_errors=True
            )
            folder = Path(stack.enter_context(temporary))
            disk, clock = folder / "disk", new_clock(folder / "clock")
            disk.mkdir()
            has_disk = stack.enter_context(disk_of_its_own(disk))
            command = self._begin(disk / "run", clock)
            kept = stack.pop_all()
        self.going = Going(disk / "run", disk, has_disk, clock, kept, command)
        return self.going

    def _begin(self, run_dir: Path, clock: Path | None) -> Run:
        items = {**SETTINGS, **self.patience}.items()
        settings = [word for key, value in items for word in ("--set", f"{key}={value}")]
        where = ["--run-dir", str(run_dir)]
        return self.site.fedcmi("run", str(self.site.kit), *where, *settings, clock=clock)

    def _target(self, going: Going, chance: random.Random) -> Deployed:
        device = chance.choice(list(DEVICES))
        return Deployed(
            going.command.known,
            going.disk,
            going.clock,
            chance,
            going.has_disk,
            home=self.site.home,
            names=(*SERVERS, *DEVICES),
            device=device,
            device_clock=self.site.clock(device),
            device_disk=self.site.home / device,
            device_has_disk=self.site.has_disk[device],
        )
