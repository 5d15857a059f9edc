"""What can happen to a run at any moment.

A process dies, connections are cut, the disk is full, the clock jumps.
"""

import contextlib
import ctypes
import os
import random
import resource
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PIDFD_GETFD = 438
"""Linux's number of the call that copies another process's file descriptor, the same on every
architecture."""
DISK = "32m"
"""Size of the disk that a run which will fill it has."""
CLOCK = Path(__file__).with_name("clock.c")
HOUR = 3600
JUMPS = (-24 * HOUR, -HOUR, HOUR, 24 * HOUR)
SUPERLINK, SERVER, ACTOR = "flower-superlink", "flwr-simulation", "ClientAppActor"
ON_DEVICES = ("flwr-serverapp", "flwr-clientapp", "flower-supernode", "nginx")
TALK = (SUPERLINK, SERVER, ACTOR, "flwr run", "gcs_server", *ON_DEVICES)
"""Processes whose connections carry the run, beside Ray's agents."""
KILL_THE_COMMAND = "kill -9 the command"


@dataclass
class Target:
    """A run that something happens to."""

    command: psutil.Process
    """``fedcmi run``."""
    folder: Path
    """Where its run directory is; a disk of its own where ``has_disk``."""
    clock: Path
    """What its clock is ahead, a native long."""
    chance: random.Random
    has_disk: bool = False

    def family(self) -> list[psutil.Process]:
        """Return the command and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.command, *self.command.children(recursive=True)]
        return []


Harm = Callable[[Target], str]
"""Does something to a run, and says what; empty where there is nothing yet that it could be done
to."""


def kill_the_command(target: Target) -> str:
    """Kill ``fedcmi run`` itself."""
    target.command.kill()
    return "the command"


def killing(name: str, what: str) -> Harm:
    """Return what kills one of the processes whose command line holds a name."""

    def kill(target: Target) -> str:
        found = with_name(target.family(), name)
        if not found:
            return ""
        target.chance.choice(found).kill()
        return what

    return kill


def cut_connections(target: Target) -> str:
    """Shut down every TCP connection of one of the processes that the run is made of, while it goes
    on.
    """
    connected = [
        (process, found) for process in target.family() if (found := _connections(process))
    ]
    chosen = [
        each for each in connected if any(name in _line(each[0]) for name in TALK)
    ] or connected
    if not chosen:
        return ""

    process, descriptors = target.chance.choice(chosen)
    for descriptor in descriptors:
        _shut_down(process.pid, descriptor)
    return f"{len(descriptors)} connections of {_name(process)}"


def fill_the_disk(target: Target) -> str:
    """Leave no byte on the run's disk.

    Where it has none of its own, let none of its processes write more.
    """
    return fill(target.folder) if target.has_disk else may_not_grow(target.family())


def may_not_grow(found: Iterable[psutil.Process]) -> str:
    """Let processes write no more to files."""
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return "no file may grow"


def fill(folder: Path) -> str:
    """Leave no byte on a disk."""
    with contextlib.suppress(OSError), filler(folder).open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return "a full tmpfs"


def jump(target: Target) -> str:
    """Set the clock by an hour or a day, forward or back."""
    return set_clock(target.clock, target.chance)


def set_clock(clock: Path, chance: random.Random) -> str:
    """Set a clock by an hour or a day."""
    seconds = chance.choice(JUMPS)
    clock.write_bytes(bytes(ctypes.c_long(seconds)))
    return f"{seconds / HOUR:+.0f} h"


ON_RAY: dict[str, Harm] = {
    KILL_THE_COMMAND: kill_the_command,
    "kill -9 the server": killing(SERVER, "the server"),
    "kill -9 an actor": killing(ACTOR, "an actor"),
    "kill -9 the SuperLink": killing(SUPERLINK, "the SuperLink"),
    "kill -9 flwr run": killing("flwr run", "flwr run"),
    "cut connections": cut_connections,
    "full disk": fill_the_disk,
    "clock jumps": jump,
}
IN_PROCESS = {name: ON_RAY[name] for name in (KILL_THE_COMMAND, "full disk", "clock jumps")}
"""What can happen to a run that is one process."""


def filler(folder: Path) -> Path:
    """Return the file that fills a run's disk."""
    return folder / "filler"


@contextlib.contextmanager
def disk_of_its_own(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder, where this user may.

    Yields
    ------
    Whether it is there.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(folder)]
    mounted = (
        os.geteuid() == 0
        and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def clock_library(folder: Path) -> Path | None:
    """Compile the clock that can be set; None where there is no compiler."""
    library = folder / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(CLOCK), "-ldl"]
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        subprocess.run(command, check=True, capture_output=True)
        return library
    return None


def with_name(found: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Return the processes whose command line holds a name."""
    return [process for process in found if name in _line(process) and not _is_companion(process)]


def _line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join([process.name(), *process.cmdline()])
    return ""


def _is_companion(process: psutil.Process) -> bool:
    """Return whether a process only watches over the SuperLink, whose command line it has among its
    arguments.
    """
    return "companion.py" in _line(process)


def _name(process: psutil.Process) -> str:
    line = _line(process)
    known = (*TALK, "raylet")
    return next((name for name in known if name in line), line.partition(" ")[0])


def _connections(process: psutil.Process) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        found = process.net_connections(kind="tcp")
        return [each.fd for each in found if each.status == psutil.CONN_ESTABLISHED]
    return []


def _shut_down(pid: int, descriptor: int) -> None:
    """Shut down a connection of another process, by a copy of its descriptor."""
    with contextlib.suppress(OSError):  # the process, or the connection, may be gone by now
        handle = os.pidfd_open(pid)
        try:
            copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, handle, descriptor, 0)
        finally:
            os.close(handle)
        if copy >= 0:
            with socket.socket(fileno=copy) as connection:
                connection.shutdown(socket.SHUT_RDWR)
