"""Long-lived processes below one directory.

Started on their own, found again, and stopped with all that they started.

Every process that is started here carries a variable of its environment that names its
directory, and so does everything that it starts, also when a parent in between has died. A
program that overwrites its environment, as nginx does with its title, is known by its working
directory, which is the process's own.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "FEDCMI_PROCESS"
"""The variable; its value is the process's path without a suffix."""
LEVELS = ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL")
"""What Flower's log lines begin with."""
PATIENCE = 10.0
"""Seconds that processes may take to end politely."""


def start(path: Path, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start a process that outlives its starter.

    Parameters
    ----------
    path
        Absolute; a directory, made if it is missing, to work in. ``PATH.pid`` gets its id and
        ``PATH.log`` what it prints, after what is there already.
    command
        Program and arguments.
    environment
        All of its variables.

    Returns
    -------
    Its process id.
    """
    path.mkdir(exist_ok=True)
    log = os.fspath(path.with_suffix(".log"))
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(path), *command],
        {**environment, MARK: os.fspath(path)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,  # Ctrl-C in the terminal is not meant for it
    )
    path.with_suffix(".pid").write_text(f"{pid}\n", encoding="utf-8")

    return pid


def pid_of(path: Path) -> int | None:
    """Return the id of a process that :func:`start` started and that still runs."""
    with contextlib.suppress(FileNotFoundError, psutil.Error):
        pid = int(path.with_suffix(".pid").read_text(encoding="utf-8"))
        process = psutil.Process(pid)
        if _is_of(process, path) or not process.environ():
            # As it is for a moment, while a process starts
            return pid if process.status() != psutil.STATUS_ZOMBIE else None

    return None


def family(path: Path) -> list[int]:
    """Return the ids of all processes that run because :func:`start` was called with this path."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended, or is somebody else's
            if _is_of(process, path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)

    return sorted(found)


def _is_of(process: psutil.Process, path: Path) -> bool:
    environment = process.environ()
    mark = environment.get(MARK) if environment else process.cwd()
    return mark == os.fspath(path)


def stop(*paths: Path) -> None:
    """End processes and all that they started: politely, and after ``PATIENCE`` by force.

    Harmless where none runs.

    Parameters
    ----------
    *paths
        As given to :func:`start`.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        told: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while (members := _members(paths)) and time.monotonic() < deadline:
            for pid in set(members) - told:  # those that were started meanwhile too
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

            told |= set(members)
            time.sleep(0.1)

    for path in paths:
        path.with_suffix(".pid").unlink(missing_ok=True)


def _members(paths: Sequence[Path]) -> list[int]:
    return [pid for path in paths for pid in family(path)]


def last_note(path: Path) -> str:
    """Return the last line of a process's log that says something."""
    try:
        text = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""

    lines = (plain(line) for line in reversed(text.splitlines()))
    return next((line for line in lines if line), "")


def plain(line: str) -> str:
    r"""Return a line of a log without Flower's colours and level.

    Parameters
    ----------
    line
        As it stands in the log.

    Returns
    -------
    What it says; empty where that is nothing.

    Examples
    --------
    >>> plain("\x1b[92mINFO \x1b[0m:      SuperNode ID: 5")
    'SuperNode ID: 5'
    >>> plain("\x1b[92mINFO \x1b[0m:      ")
    ''
    """
    text = "".join(
        part if place == 0 else part.partition("m")[2]
        for place, part in enumerate(line.split("\x1b["))
    )
    level, colon, rest = text.partition(":")
    return rest.strip() if colon and level.strip() in LEVELS else text.strip()
