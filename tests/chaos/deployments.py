"""Runs of ``fedcmi deploy run`` that are done harm, on a deployment rehearsed once for all of them.

SuperLink, registrar, proxy and two devices over loopback, with TLS and node authentication. Both
devices take part in every round, and a round without one of them ends the run: it goes on from
its checkpoint, and comes to what the undisturbed one comes to.
"""

import contextlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import deployment_harms as harms
import numpy as np
import oracle
import psutil
from deployment_harms import CLIENT_APP, SERVER_APP, Deployed, members
from harms import KILL_THE_COMMAND, disk_of_its_own, filler, with_name
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

from server_app.deploy import processes
from server_app.deploy.deployment import SUPERLINK
from server_app.deploy.rehearsal import REHEARSAL
from server_app.run.checkpoint import CHECKPOINTS, stored_checkpoints

DEVICES = {"edge-both": ("audio", "visual"), "edge-audio": ("audio",)}
SERVERS = ("superlink", "registrar", "proxy")
SAMPLES, ROUNDS = 40, 3
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
BUSY = ("another process still writes this run", "another process is training there")
"""What is said of a run whose command was killed, while its server goes on."""


@dataclass(frozen=True)
class Place:
    """Where the run of a moment writes, and what time its command is told."""

    run_dir: Path
    disk: Path
    clock: Path
    has_disk: bool


class Deployments:
    """A rehearsed deployment; it is up inside ``with``.

    Parameters
    ----------
    folder
        An empty directory.
    limit
        Seconds that a command may take.
    library
        The clock that can be set; None: there is none.
    """

    harms = harms.ON_DEPLOYMENT

    def __init__(self, folder: Path, limit: float, library: Path | None) -> None:
        self.folder, self.limit, self.library = folder, limit, library
        self.kit = folder / "deployment"
        self.home = self.kit / REHEARSAL
        self.has_disk: dict[str, bool] = {}
        self.patience = LONG
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Deployments":
        """Write the deployment and start it."""
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        self._stack.callback(self._down)
        description = self.folder / "nodes.toml"
        description.write_text(self._nodes_toml(), encoding="utf-8")
        self._must("init", str(self.kit), "--nodes", str(description))
        self._up(SERVERS)
        for name in DEVICES:
            (self.home / name).mkdir()
            disk = disk_of_its_own(self.home / name)
            self.has_disk[name] = self._stack.enter_context(disk)
            new_clock(self._clock(name))
            self._up([name])

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._stack.close()
        if left := [found for name in (*SERVERS, *DEVICES) for found in members(self.home / name)]:
            raise SystemExit(f"WRONG: left over after `deploy down`: {left}")

    def undisturbed(self) -> Undisturbed:
        """Train once without anything done to the run."""
        directory = self.folder / "undisturbed"
        run = self._begin(directory, None)
        whole = measured(run, directory, ROUNDS, self.limit)
        taken = {"round-timeout": whole.a_round, "wait-timeout": whole.first}
        self.patience = {key: max(LEAST[key], TIMES * taken[key]) for key in taken}
        return whole

    def disturb(self, whole: Undisturbed, moment: Moment, chance: random.Random) -> tuple[str, str]:
        """Start a run, do harm to it, to its server or to a device, and see what becomes of it.

        What has died is started again, at once or when the command has ended.
        """
        with self._place(moment) as place:
            run = self._begin(place.run_dir, place.clock)
            target = self._target(run, place, chance)
            if moment.after >= 0:
                run.wait_for_round(moment.after)
            time.sleep(moment.delay)
            began = psutil.Process(run.process.pid).children(recursive=True)
            done = self.harms[moment.harm](target) if run.process.poll() is None else ""
            at_once = chance.random() < 0.5
            wrong = self._start_again() if at_once else ""
            status = run.end(self.limit)
            self._mend(target)
            wrong = wrong or self._start_again()
            ending = wrong or self._ending(whole, place.run_dir, moment, status, run)
            ending = self._left(began, ending)
            when = "started again at once" if at_once else "then started again"
            if not done:
                return "nothing there yet to do it to", ending
            return (f"{done}, {when}" if "kill -9" in moment.harm else done), ending

    def _ending(
        self, whole: Undisturbed, run_dir: Path, moment: Moment, status: int | None, run: Run
    ) -> str:
        if status is None:
            return f"WRONG: still there after {self.limit:.0f} s:\n{run.text}"
        if status == 0:
            return judged(whole, run_dir, status, run.text)

        killed = moment.harm == KILL_THE_COMMAND
        if not killed and (wrong := unexplained(run.text)):
            return f"WRONG: {wrong}:\n{run.text}"
        said = "" if killed else f" [{run.text.splitlines()[-1].split(' ')[0]}...]"
        return self._gone_on(whole, run_dir, said)

    def _gone_on(self, whole: Undisturbed, run_dir: Path, said: str) -> str:
        """Go on with a run; where its server still works on it, when that has ended."""
        deadline = time.monotonic() + self.limit
        waited = ""
        while True:
            works = bool(with_name(members(self.home / SUPERLINK), SERVER_APP))
            had = bool(stored_checkpoints(run_dir / CHECKPOINTS))
            again = self._fedcmi("run", str(self.kit), "--run-dir", str(run_dir), "--resume")
            status = again.end(self.limit)
            if status == 0:
                found = judged(whole, run_dir, status, again.text)
                return found if found.startswith("WRONG") else f"resumed{waited}: {found}"
            if not refused_well(status, again.text):
                return f"WRONG: going on ended with {status}:\n{again.text}"
            busy = any(words in again.text for words in BUSY) or (works and not had)
            if not busy:
                says = "says to start again"
                return says if not had else f"WRONG: cannot go on{said}:\n{again.text}"
            if time.monotonic() > deadline:
                return f"WRONG: never ends:\n{again.text}"
            self._wait_for_the_server_app()
            waited = ", when the server had ended"

    def _left(self, began: Sequence[psutil.Process], ending: str) -> str:
        """Return the ending, or what of the run is still there."""
        deadline = time.monotonic() + LEFT_OVER
        while found := [*self._apps(), *(each for each in began if each.is_running())]:
            if time.monotonic() > deadline:
                return f"WRONG: left over: {found}, after {ending}"
            time.sleep(0.2)
        return ending

    def _apps(self) -> list[psutil.Process]:
        """Return the processes that are there for a run only."""
        everybody = [found for name in (SUPERLINK, *DEVICES) for found in members(self.home / name)]
        return [*with_name(everybody, SERVER_APP), *with_name(everybody, CLIENT_APP)]

    def _wait_for_the_server_app(self) -> None:
        deadline = time.monotonic() + self.limit
        while with_name(members(self.home / SUPERLINK), SERVER_APP):
            if time.monotonic() > deadline:
                return
            time.sleep(0.5)

    def _start_again(self) -> str:
        """Start what has died, as an operator does; return what went wrong."""
        for name in (*SERVERS, *DEVICES):
            if processes.pid_of(self.home / name) is None:
                clock = self._clock(name) if name in DEVICES else None
                run = self._fedcmi("up", str(self.kit), "--only", name, clock=clock)
                if run.end(self.limit) != 0:
                    return f"WRONG: {name} could not be started again:\n{run.text}"
        return ""

    def _mend(self, target: Deployed) -> None:
        """Make room on the disks, and set the clocks right."""
        filler(target.folder).unlink(missing_ok=True)
        filler(target.device_disk).unlink(missing_ok=True)
        harms.may_grow_again(target.of(target.device))
        new_clock(target.device_clock)

    @contextlib.contextmanager
    def _place(self, moment: Moment) -> Iterator[Place]:
        temporary = tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
        with temporary as name, contextlib.ExitStack() as stack:
            disk = Path(name) / "disk"
            disk.mkdir()
            full = moment.harm == harms.RUNS_DISK
            has_disk = stack.enter_context(disk_of_its_own(disk)) if full else False
            yield Place(disk / "run", disk, new_clock(Path(name) / "clock"), has_disk)

    def _target(self, run: Run, place: Place, chance: random.Random) -> Deployed:
        device = chance.choice(list(DEVICES))
        return Deployed(
            psutil.Process(run.process.pid),
            place.disk,
            place.clock,
            chance,
            place.has_disk,
            home=self.home,
            names=(*SERVERS, *DEVICES),
            device=device,
            device_clock=self._clock(device),
            device_disk=self.home / device,
            device_has_disk=self.has_disk[device],
        )

    def _begin(self, run_dir: Path, clock: Path | None) -> Run:
        items = {**SETTINGS, **self.patience}.items()
        settings = [word for key, value in items for word in ("--set", f"{key}={value}")]
        where = ["--run-dir", str(run_dir)]
        return self._fedcmi("run", str(self.kit), *where, *settings, clock=clock)

    def _fedcmi(self, *arguments: str, clock: Path | None = None) -> Run:
        return watched([*FEDCMI, "deploy", *arguments], self.library, clock)

    def _must(self, *arguments: str, clock: Path | None = None) -> None:
        run = self._fedcmi(*arguments, clock=clock)
        if run.end(self.limit) != 0:
            raise SystemExit(run.text)

    def _up(self, names: Sequence[str]) -> None:
        only = [word for name in names for word in ("--only", name)]
        clock = self._clock(names[0]) if names[0] in DEVICES else None
        self._must("up", str(self.kit), *only, clock=clock)

    def _down(self) -> None:
        if self.home.is_dir():
            self._must("down", str(self.kit))

    def _clock(self, name: str) -> Path:
        return self.folder / f"{name}.clock"

    def _nodes_toml(self) -> str:
        """Make up each one's samples and describe the deployment."""
        place = json.dumps(str(self._samples("server", ("audio", "visual"))))
        text = f'[superlink]\naddress = "fedcmi.example.org:8000"\ndata = {place}\n'
        for name, owned in DEVICES.items():
            place = json.dumps(str(self._samples(name, owned)))
            text += f'\n[[node]]\nname = "{name}"\nmodalities = {json.dumps(owned)}\n'
            text += f"data = {place}\n"
        return text

    def _samples(self, name: str, owned: Sequence[str]) -> Path:
        present = {modality: np.ones(SAMPLES, dtype=bool) for modality in owned}
        return oracle.prepare(self.folder / "data" / name, present)
