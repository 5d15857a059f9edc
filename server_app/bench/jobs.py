"""Jobs in processes of their own, forked from a server that has imported everything and ended with
who started them.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from fedcmi_flwr.machine.locks import LockedError, locked
from fedcmi_flwr.machine.workers import worker_context
from server_app.launch.progress import Show
from server_app.pyproject import client_app_reference

PRELOADED = (f"{__package__}.experiments", "flwr_datasets.partitioner", "rich.markdown", "typer")
"""Imported once, before forking; those after the first are imported elsewhere when they are
first used."""
LOCK = ".lock"
"""File in a bench's directory that the one bench at work there holds."""
PATIENCE = 20.0
"""Seconds to wait for the runs of a bench that was killed; they end by themselves."""


class BusyError(ValueError):
    """A directory in which other processes are at work."""


@dataclass(frozen=True)
class Job:
    """What one process does."""

    work: Callable[[Show], None]
    """Importable by name, or a partial of such a function; called with a function that takes
    lines for the log."""
    log: Path
    """Gets what the process prints; the directory around it is made anew."""
    home: Path
    """The directory of :func:`alone_in`, of which the process is a part."""


@contextlib.contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Lock a directory for this process and its jobs.

    Wait for jobs whose parent process was killed.

    The process holds ``LOCK`` in it; each job holds a shared lock on the directory itself.

    Parameters
    ----------
    home
        Made when missing.

    Yields
    ------
    Nothing.

    Raises
    ------
    BusyError
        Others are still at work there.
    """
    home.mkdir(parents=True, exist_ok=True)
    try:
        with locked(home / LOCK, PATIENCE):
            with locked(home, PATIENCE):
                pass  # the last job of others has ended; ours may now share this one

            yield
    except LockedError as error:
        raise BusyError(
            f"{home}: another process is at work there; wait for its end or give another --out."
        ) from error


def run_jobs(jobs: Sequence[Job], at_once: int, ended: Callable[[Job, str | None], None]) -> None:
    """Run jobs, several at a time; when this is interrupted or killed, they end too.

    Parameters
    ----------
    jobs
        In the order of their start.
    at_once
        Processes at a time.
    ended
        Called for each job that ends, with None or why it failed.
    """
    context = worker_context([*PRELOADED, client_app_reference().partition(":")[0]])
    waiting = list(jobs)
    running: dict[object, tuple[BaseProcess, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                _make_anew(job.log.parent)
                started = context.Process(target=_in_child, args=(job,), daemon=True)
                started.start()
                running[started.sentinel] = (started, job)

            for sentinel in wait([process.sentinel for process, _ in running.values()]):
                process, job = running.pop(sentinel)
                process.join()
                ended(job, _reason(process.exitcode or 0, job.log))
    finally:
        for process, _ in running.values():
            process.terminate()

        for process, _ in running.values():
            process.join()


def _make_anew(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)  # what an interrupted run left

    directory.mkdir(parents=True)


def _in_child(job: Job) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with locked(job.home, PATIENCE, shared=True), job.log.open("w", encoding="utf-8") as log:
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log.fileno(), number)  # what libraries print goes there too

        job.work(lambda line: print(line, flush=True))  # noqa: T201


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _reason(exit_code: int, log: Path) -> str | None:
    """Return why a process failed.

    The signal that ended it, else what the server or the process said last.
    """
    if exit_code == 0:
        return None
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"

    error = log.with_name("error.txt")
    if error.is_file():
        return error.read_text(encoding="utf-8").splitlines()[0]

    said = log.read_text(encoding="utf-8").split("\n")

    return next((line for line in reversed(said) if line.strip()), f"exit status {exit_code}")
