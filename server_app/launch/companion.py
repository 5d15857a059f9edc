"""Runs a command and ends it, with all that it started, when standard input closes.

Also after a kill -9 of the caller.

python companion.py COMMAND...
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

GRACE = 30.0
"""Seconds between the request to end and the end by force."""
ADOPT = 36
"""Linux: PR_SET_CHILD_SUBREAPER, by which what a child leaves behind becomes this process's own
child."""


def accompany(command: Sequence[str]) -> int:
    """Run a command to its end, or to the end of standard input.

    Parameters
    ----------
    command
        Program and arguments.

    Returns
    -------
    The command's exit status.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)

    process, ending = subprocess.Popen(command, stdin=subprocess.DEVNULL), threading.Event()
    watch = threading.Thread(target=_end_with_input, args=(process.pid, ending), daemon=True)
    watch.start()
    status = process.wait()
    if ending.is_set():  # the command may end before what it started
        watch.join()

    terminate(psutil.Process().children(recursive=True))  # of a command that was killed

    return status


def _end_with_input(pid: int, ending: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass

    ending.set()
    with contextlib.suppress(psutil.NoSuchProcess):
        terminate_tree(pid)


def terminate_tree(pid: int) -> None:
    """End a process and all below it, whatever sessions they are in."""
    parent = psutil.Process(pid)
    terminate([*parent.children(recursive=True), parent])


def terminate(family: Sequence[psutil.Process]) -> None:
    """End processes: politely, after ``GRACE`` seconds by force."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()

    _, left = psutil.wait_procs(family, timeout=GRACE)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    sys.exit(accompany(sys.argv[1:]))
