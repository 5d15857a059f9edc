"""Processes that outlive their starter are found and stopped with all that they started, and no
others are.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sites import require

from server_app.deploy import processes
from server_app.deploy.proxy import nginx_program

FAMILY = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import time; print('child', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print("parent", flush=True)
time.sleep(600)
"""


def start(path: Path, *arguments: str) -> int:
    """Start a process with a child in a session of its own, and return when both have spoken."""
    pid = processes.start(path, [sys.executable, "-c", FAMILY, *arguments], os.environ)
    while not {"parent", "child"} <= set(path.with_suffix(".log").read_text().split()):
        assert processes.pid_of(path) == pid, path.with_suffix(".log").read_text()
    return pid


def test_it_is_found_by_its_path_with_its_child(tmp_path: Path) -> None:
    first, second = start(tmp_path / "a"), start(tmp_path / "ab")
    try:
        assert (processes.pid_of(tmp_path / "a"), processes.pid_of(tmp_path / "ab")) == (
            first,
            second,
        )
        assert first in processes.family(tmp_path / "a")
        assert len(processes.family(tmp_path / "a")) == 2
        assert set(processes.family(tmp_path / "a")).isdisjoint(processes.family(tmp_path / "ab"))
    finally:
        processes.stop(tmp_path / "a")
        assert processes.pid_of(tmp_path / "ab") == second
        processes.stop(tmp_path / "ab")
    assert processes.family(tmp_path / "a") + processes.family(tmp_path / "ab") == []


def test_a_child_whose_parent_was_killed_is_stopped_too(tmp_path: Path) -> None:
    pid = start(tmp_path / "a")
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert processes.pid_of(tmp_path / "a") is None
    assert len(processes.family(tmp_path / "a")) == 1
    processes.stop(tmp_path / "a")
    assert processes.family(tmp_path / "a") == []


def test_a_program_that_overwrites_its_environment_is_found_and_stopped(tmp_path: Path) -> None:
    """As nginx does, which writes its title there."""
    require("nginx", "nginx-light")
    home = tmp_path / "proxy"
    (tmp_path / "nginx.conf").write_text(
        f'pid "{tmp_path}/nginx.pid"; events {{}}', encoding="utf-8"
    )
    command = [nginx_program(), "-e", "stderr", "-p", f"{tmp_path}", "-c", f"{tmp_path}/nginx.conf"]
    pid = processes.start(home, [*command, "-g", "daemon off;"], os.environ)
    while b"worker process" not in b"".join(map(title, processes.family(home))):
        assert processes.pid_of(home) == pid, home.with_suffix(".log").read_text()
    assert pid in processes.family(home)
    processes.stop(home)
    os.waitpid(pid, 0)
    assert processes.family(home) == []
    assert processes.pid_of(home) is None


def title(pid: int) -> bytes:
    """Return what a process calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_what_does_not_end_politely_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    start(tmp_path / "a", "stubborn")
    processes.stop(tmp_path / "a")
    assert processes.family(tmp_path / "a") == []


def test_a_number_that_another_process_got_is_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        # Before that it has no environment to be seen
        assert other.stdout and other.stdout.readline() == b"ready\n"
        (tmp_path / "a.pid").write_text(f"{other.pid}\n")

        assert processes.pid_of(tmp_path / "a") is None
        processes.stop(tmp_path / "a")

        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


def test_the_log_goes_on_and_its_last_word_is_noted(tmp_path: Path) -> None:
    for word in ("one", "two"):
        pid = processes.start(
            tmp_path / "a",
            [sys.executable, "-c", f"print('\\x1b[92mINFO \\x1b[0m: {word}\\n')"],
            {},
        )
        os.waitpid(pid, 0)
    assert processes.last_note(tmp_path / "a") == "two"
    assert "one" in (tmp_path / "a.log").read_text()
    assert processes.last_note(tmp_path / "b") == ""
