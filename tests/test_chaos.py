"""Runs go on, or say how to, whatever happens to them; and what is done to them is really done."""

import ctypes
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import harms
import numpy as np
import oracle
import psutil
import pytest
from deployment_harms import ON_DEPLOYMENT, Deployed

from server_app.deploy import processes

CHAOS = Path(__file__).with_name("chaos")

LISTENS = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sys.exit(0 if connection.recv(1) == b"" else 1)
"""
TELLS = "import sys, time; [print(time.time(), flush=True) for _ in sys.stdin]"
WRITES = """
import sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for _ in sys.stdin:
        try:
            file.write(bytes(4096))
        except OSError as error:
            print(error.strerror, flush=True)
        else:
            print("written", flush=True)
"""


def target(process: subprocess.Popen[str], folder: Path, *, has_disk: bool = False) -> harms.Target:
    return harms.Target(
        psutil.Process(process.pid), folder, folder / "clock", random.Random(0), has_disk
    )


def python(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.skipif(sys.platform != "linux", reason="kills and limits processes as Linux does")
def test_a_few_moments_of_one_process(tmp_path: Path) -> None:
    """One of each kind; many of them, on Ray too, are for ``tests/chaos/run.py`` itself."""
    present = {name: np.ones(120, dtype=bool) for name in ("audio", "visual")}
    data = oracle.prepare(tmp_path / "toy", present)
    script = [
        sys.executable,
        str(CHAOS / "run.py"),
        "--engine",
        "in-process",
        "--moments",
        "3",
        "--seed",
        "3",
    ]
    done = subprocess.run(
        [*script, "--data", str(data)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 moments, seed 3: 0 wrong" in done.stdout


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="copies sockets by pidfd_getfd, which Linux has"
)
def test_connections_of_another_process_are_cut(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        python(LISTENS, str(server.getsockname()[1])) as process,
        server.accept()[0],
    ):
        assert harms.cut_connections(target(process, tmp_path)).startswith("1 connections of ")
        assert process.wait(20) == 0


@pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="starts processes as Linux does")
def test_of_a_deployment_only_what_is_named_is_killed(tmp_path: Path) -> None:
    names = ("edge-both", "edge-audio")
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)", "flwr-clientapp"]
    try:
        for name in names:
            processes.start(tmp_path / name, sleeps, os.environ)
        with python("input()") as command:
            found = Deployed(
                psutil.Process(command.pid),
                tmp_path,
                tmp_path / "clock",
                random.Random(0),
                home=tmp_path,
                names=names,
                device="edge-audio",
            )
            said = ON_DEPLOYMENT["kill -9 a client's process"](found)
            assert said == "flwr-clientapp of edge-audio"
            assert ON_DEPLOYMENT["kill -9 flwr run"](found) == ""
            command.communicate("\n")

        deadline = time.monotonic() + 20
        while processes.family(tmp_path / "edge-audio") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [processes.pid_of(tmp_path / name) is None for name in names] == [False, True]
    finally:
        processes.stop(*(tmp_path / name for name in names))


def test_the_clock_of_a_running_process_jumps(tmp_path: Path) -> None:
    library = harms.clock_library(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler")
    clock = tmp_path / "clock"
    clock.write_bytes(bytes(ctypes.c_long(0)))
    with python(TELLS, LD_PRELOAD=str(library), CHAOS_CLOCK=str(clock)) as process:
        assert float(ask(process)) == pytest.approx(time.time(), abs=60)
        said = harms.jump(target(process, tmp_path))
        hours = (float(ask(process)) - time.time()) / harms.HOUR
        assert f"{hours:+.0f} h" == said


def test_a_full_disk_takes_nothing_and_does_when_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with harms.disk_of_its_own(folder) as has_disk, python(WRITES, str(folder / "file")) as process:
        assert ask(process) == "written"
        harms.fill_the_disk(target(process, folder, has_disk=has_disk))
        assert ask(process) in ("No space left on device", "File too large")
        harms.filler(folder).unlink(missing_ok=True)
        assert ask(process) == ("written" if has_disk else "File too large")
        process.kill()
