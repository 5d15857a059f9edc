"""A lock keeps others out as long as its process lives.

Where a system has none, that is said and work goes on.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from fedcmi_flwr.machine import locks
from fedcmi_flwr.machine.locks import LockedError, locked

HOLD = """
import sys
from pathlib import Path
from fedcmi_flwr.machine.locks import locked
with locked(Path(sys.argv[1]), 0.0):
    print(flush=True)
    input()
"""
WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import data_prep.pipeline.prepare
import server_app.bench.jobs
import server_app.commands.main
import server_app.launch.record
from server_app.run.resume import alone_in_run
from pathlib import Path
with alone_in_run(Path(sys.argv[1])), alone_in_run(Path(sys.argv[1])):
    print("at work")
"""


@pytest.fixture(params=["directory", "file", "new file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return what can be locked."""
    if request.param == "directory":
        return tmp_path
    if request.param == "file":
        (tmp_path / "a.lock").touch()
    return tmp_path / "a.lock"


def test_one_at_a_time(path: Path) -> None:
    with locked(path, 0.0):
        with (
            pytest.raises(LockedError, match=f"{path.name}: another process has held its lock"),
            locked(path, 0.0),
        ):
            pass
        with pytest.raises(LockedError), locked(path, 0.0, shared=True):
            pass
    with locked(path, 0.0):
        pass


def test_sharers_keep_out_only_who_wants_it_alone(path: Path) -> None:
    together = (locked(path, 0.0, shared=True), locked(path, 0.0, shared=True))
    with together[0], together[1], pytest.raises(LockedError), locked(path, 0.0):
        pass
    with locked(path, 0.0):
        pass


def test_a_lock_ends_with_its_process_even_if_that_is_killed(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LockedError), locked(path, 0.0):
        pass
    holder.kill()
    with locked(path, 60.0):
        pass
    holder.communicate()


def test_a_system_without_locks_is_told_and_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    told = pytest.warns(
        RuntimeWarning, match=f"{path.name}: this system has no file locks; see that no second"
    )
    with told as warnings, locked(path, 0.0), locked(path, 0.0):
        pass
    assert len(warnings) == 2


def test_every_command_can_be_imported_without_fcntl(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "at work\n", done.stderr
    assert "RuntimeWarning" in done.stderr
    assert "see that no second process works there" in done.stderr
