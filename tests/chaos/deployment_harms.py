"""What can happen to a deployment at any moment: to its server, to a device, to who starts a run."""

import contextlib
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import harms
import psutil

from server_app.deploy import processes
from server_app.deploy.deployment import PROXY, SUPERLINK

SERVER_APP, CLIENT_APP, SUPERNODE = "flwr-serverapp", "flwr-clientapp", "flower-supernode"
SERVICE = "deploy node"
PATIENCE = 30.0
"""Seconds in which a process has to be there that is to be killed."""
COMMANDS_CLOCK, DEVICES_CLOCK = "clock jumps, the command's", "clock jumps, a device's"
RUNS_DISK, DEVICES_DISK = "full disk, the run's", "full disk, a device's"


@dataclass
class Deployed(harms.Target):
    """A run on a deployment that something happens to."""

    home: Path = Path()
    """Where the rehearsal's processes are."""
    names: tuple[str, ...] = ()
    """Its processes."""
    device: str = ""
    """The one that something happens to."""
    device_clock: Path = Path()
    device_disk: Path = Path()
    device_has_disk: bool = False

    def family(self) -> list[psutil.Process]:
        """Return the command with what it has started, and all processes of the deployment."""
        return [*super().family(), *(found for name in self.names for found in self.of(name))]

    def of(self, name: str) -> list[psutil.Process]:
        """Return a process of the deployment with all that it has started."""
        return members(self.home / name)


Harm = Callable[[Deployed], str]


def members(path: Path) -> list[psutil.Process]:
    """Return the processes that were started with a path."""
    found = []
    for number in processes.family(path):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(number))
    return found


def killing(program: str, name: str = "") -> Harm:
    """Return what kills one of the processes that run a program.

    Parameters
    ----------
    program
        Stands in its command line.
    name
        Whose it is; empty: the device's.
    """

    def kill(target: Deployed) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and target.command.is_running():
            found = harms.with_name(target.of(name or target.device), program)
            if found:
                chosen = target.chance.choice(found)
                with contextlib.suppress(psutil.NoSuchProcess):
                    chosen.kill()
                    return f"{program} of {name or target.device}"
            time.sleep(0.05)
        return ""

    return kill


def kill_flwr_run(target: Deployed) -> str:
    """Kill what follows the run for the command."""
    found = harms.with_name(harms.Target.family(target), "flwr run")
    for process in found:
        process.kill()
    return "flwr run" if found else ""


def fill_the_runs_disk(target: Deployed) -> str:
    """Leave no byte where the run writes."""
    writers = [*harms.Target.family(target), *harms.with_name(target.of(SUPERLINK), SERVER_APP)]
    return harms.fill(target.folder) if target.has_disk else harms.may_not_grow(writers)


def fill_a_devices_disk(target: Deployed) -> str:
    """Leave no byte where a device writes."""
    if target.device_has_disk:
        return f"{harms.fill(target.device_disk)} of {target.device}"
    return f"{harms.may_not_grow(target.of(target.device))} of {target.device}"


def a_devices_clock_jumps(target: Deployed) -> str:
    """Set a device's clock by an hour or a day."""
    return f"{target.device}: {harms.set_clock(target.device_clock, target.chance)}"


def may_grow_again(found: Iterable[psutil.Process]) -> None:
    """Undo what :func:`harms.may_not_grow` does."""
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


ON_DEPLOYMENT: dict[str, Harm] = {
    harms.KILL_THE_COMMAND: harms.kill_the_command,
    "kill -9 flwr run": kill_flwr_run,
    "kill -9 the SuperLink": killing(harms.SUPERLINK, SUPERLINK),
    "kill -9 the server app": killing(SERVER_APP, SUPERLINK),
    "kill -9 the proxy": killing("nginx", PROXY),
    "kill -9 a SuperNode": killing(SUPERNODE),
    "kill -9 a device's service": killing(SERVICE),
    "kill -9 a client's process": killing(CLIENT_APP),
    "cut connections": harms.cut_connections,
    RUNS_DISK: fill_the_runs_disk,
    DEVICES_DISK: fill_a_devices_disk,
    COMMANDS_CLOCK: harms.jump,
    DEVICES_CLOCK: a_devices_clock_jumps,
}
