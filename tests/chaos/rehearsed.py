"""A deployment that is rehearsed once for many runs.

SuperLink, registrar, proxy and two devices over loopback, with TLS and node authentication, a
disk and a clock of its own for each device.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import oracle
import psutil
from deployment_harms import CLIENT_APP, SERVER_APP, members
from harms import disk_of_its_own, with_name
from judging import FEDCMI, LEFT_OVER, Run, new_clock, watched

from server_app.deploy import processes
from server_app.deploy.deployment import PROXY, REGISTRAR, SUPERLINK
from server_app.deploy.rehearsal import REHEARSAL

DEVICES = {"edge-both": ("audio", "visual"), "edge-audio": ("audio",)}
SERVERS = (SUPERLINK, REGISTRAR, PROXY)
SAMPLES = 40
"""Of each device."""


class Rehearsed:
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

    def __init__(self, folder: Path, limit: float, library: Path | None) -> None:
        self.folder, self.limit, self.library = folder, limit, library
        self.kit = folder / "deployment"
        self.home = self.kit / REHEARSAL
        self.has_disk: dict[str, bool] = {}
        self.begun: list[Run] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Rehearsed":
        """Write the deployment and start it."""
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it; nothing of it may be left."""
        self._stack.close()
        if left := [found for name in (*SERVERS, *DEVICES) for found in members(self.home / name)]:
            raise SystemExit(f"WRONG: left over after `deploy down`: {left}")

    def fedcmi(self, *arguments: str, clock: Path | None = None) -> Run:
        """Begin a command of the deployment."""
        run = watched([*FEDCMI, "deploy", *arguments], self.library, clock)
        self.begun = [each for each in self.begun if each.process.poll() is None]
        self.begun.append(run)
        return run

    def start_again(self) -> str:
        """Start what has died, as an operator does; return what went wrong."""
        for name in (*SERVERS, *DEVICES):
            if processes.pid_of(self.home / name) is None:
                run = self._up(name)
                if run.end(self.limit) != 0:
                    return f"WRONG: {name} could not be started again:\n{run.text}"
        return ""

    def clock(self, name: str) -> Path:
        """Return a device's clock."""
        return self.folder / f"{name}.clock"

    def is_serving(self) -> bool:
        """Return whether the server of a run is at work."""
        return bool(with_name(members(self.home / SUPERLINK), SERVER_APP))

    def wait_for_the_server_app(self) -> bool:
        """Return whether the server of a run has ended within the limit."""
        deadline = time.monotonic() + self.limit
        while self.is_serving():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def left_of(self, began: Sequence[psutil.Process]) -> str:
        """Return what of a run is still there when all of it should be gone."""
        deadline = time.monotonic() + LEFT_OVER
        while found := [*self._apps(), *(each for each in began if each.is_running())]:
            if time.monotonic() > deadline:
                return f"WRONG: left over: {found}"
            time.sleep(0.2)
        return ""

    def _apps(self) -> list[psutil.Process]:
        """Return the processes that are there for a run only."""
        everybody = [found for name in (SUPERLINK, *DEVICES) for found in members(self.home / name)]
        return [*with_name(everybody, SERVER_APP), *with_name(everybody, CLIENT_APP)]

    def _set_up(self) -> None:
        self._stack.callback(self._down)
        description = self.folder / "nodes.toml"
        description.write_text(self._nodes_toml(), encoding="utf-8")
        self._must(self.fedcmi("init", str(self.kit), "--nodes", str(description)))
        only = [word for name in SERVERS for word in ("--only", name)]
        self._must(self.fedcmi("up", str(self.kit), *only))
        for name in DEVICES:
            (self.home / name).mkdir()
            disk = disk_of_its_own(self.home / name)
            self.has_disk[name] = self._stack.enter_context(disk)
            new_clock(self.clock(name))
            self._must(self._up(name))

    def _up(self, name: str) -> Run:
        clock = self.clock(name) if name in DEVICES else None
        return self.fedcmi("up", str(self.kit), "--only", name, clock=clock)

    def _down(self) -> None:
        for run in self.begun:  # where this was interrupted
            run.process.terminate()
            run.end(self.limit)
        if self.home.is_dir():
            self._must(self.fedcmi("down", str(self.kit)))

    def _must(self, run: Run) -> None:
        if run.end(self.limit) != 0:
            raise SystemExit(run.text)

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
