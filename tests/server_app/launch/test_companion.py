"""A companion ends its command with all that it started, when its standard input closes."""

import subprocess
import sys

import psutil
import pytest

from server_app.launch import companion

ACCOMPANY = """
import sys
from server_app.launch import companion
companion.GRACE = 0.5
sys.exit(companion.accompany(sys.argv[1:]))
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def runs(process: psutil.Process) -> bool:
    """Return whether a process does something still.

    One that nobody waits for stays as a zombie.
    """
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_child_that_does_not_end_politely_is_killed_though_its_parent_is_gone() -> None:
    command = [sys.executable, "-c", ACCOMPANY, sys.executable, "-c", PARENT, STUBBORN]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        try:
            process.stdin.close()
            process.wait(timeout=60)
            assert not runs(child)
        finally:
            if runs(child):
                child.kill()


@pytest.mark.parametrize("status", [0, 3])
def test_it_ends_as_its_command_does(status: int) -> None:
    command = [
        sys.executable,
        companion.__file__,
        sys.executable,
        "-c",
        f"raise SystemExit({status})",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == status


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a process adopt what its children leave behind"
)
def test_what_a_killed_command_had_started_ends_with_it() -> None:
    command = [sys.executable, "-c", ACCOMPANY, sys.executable, "-c", PARENT, STUBBORN]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        try:
            child.parent().kill()
            process.wait(timeout=60)
            assert not runs(child)
        finally:
            if runs(child):
                child.kill()
