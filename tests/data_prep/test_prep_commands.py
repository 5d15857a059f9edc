"""`fedcmi prep cremad` and `ave` as a user calls them, with real media: the same bytes, whatever happens."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import media
import pytest

REPOSITORY = Path(__file__).parents[2]
ARCHIVES: dict[str, Callable[[Path], object]] = {"cremad": media.write_cremad, "ave": media.write_ave}


def contents(directory: Path) -> dict[str, str]:
    """Return the hash of every file."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(name: str, raw: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a preparation with small frames."""
    start = [sys.executable, "-m", "fedcmi_flwr.cli", "prep", name, "--raw", str(raw), "--out", str(out)]
    return [*start, "--frame-size", "32", *options]


def called(name: str, raw: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Prepare in a process of its own."""
    return subprocess.run(
        command(name, raw, out, *options), cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module", params=list(ARCHIVES))
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return the name of a data set, an archive of it, and what one worker makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    ARCHIVES[request.param](folder / "raw")
    ended = called(request.param, folder / "raw", folder / "one", "--workers", "1")
    assert ended.returncode == 0, ended.stderr
    assert f"prepared {folder / 'one'}: " in ended.stdout
    assert "clips per second)" in ended.stdout
    return request.param, folder / "raw", folder / "one"


def test_four_workers_write_the_bytes_of_one(archive: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, raw, one = archive
    ended = called(name, raw, tmp_path / "four", "--workers", "4")
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "four") == contents(one)


def test_killed_in_the_middle_and_called_again(archive: tuple[str, Path, Path], tmp_path: Path) -> None:
    """It is killed with -9 once the journal says that some rows are there, but not all."""
    name, raw, one = archive
    out, journal = tmp_path / "out", tmp_path / ".out.rows" / "journal"
    process = subprocess.Popen(command(name, raw, out, "--workers", "2"), cwd=REPOSITORY, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = len(journal.read_bytes().splitlines())
    assert made
    assert not out.exists()
    ended = called(name, raw, out, "--workers", "2")
    assert ended.returncode == 0, ended.stderr
    assert "were there from an interrupted call" in ended.stdout
    assert contents(out) == contents(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.lock"]


def test_called_again_when_finished(archive: tuple[str, Path, Path]) -> None:
    name, raw, one = archive
    ended = called(name, raw, one)
    assert ended.returncode == 0, ended.stderr
    assert "there already with these settings" in ended.stdout
    ended = called(name, raw, one, "--modalities", "audio")
    assert ended.returncode == 1
    assert "prepared with other settings: modalities" in ended.stderr


def test_an_error_is_one_line_and_nothing_looks_finished(archive: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, _, _ = archive
    ended = called(name, tmp_path / "nowhere", tmp_path / "out")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    media.write_cremad(tmp_path / "raw", ["1001"], ["DFA"])
    (tmp_path / "list.csv").write_text("1001_DFA_ANG_XX,train\n1001_DFA_SAD_XX,test\n")
    options = ("--split", "paper", "--list", str(tmp_path / "list.csv"), "--workers", "1", "--modalities", "audio")
    ended = called("cremad", tmp_path / "raw", tmp_path / "out", *options)
    assert ended.returncode == 0, ended.stderr
    assert f"prepared {tmp_path / 'out'}: 2 samples" in ended.stdout
    stored = sorted(path.name for path in (tmp_path / "out" / "test").iterdir())
    assert stored == ["audio.npy", "labels.npy", "samples.csv"]
