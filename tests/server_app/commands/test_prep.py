"""`fedcmi prep cremad` and `ave` as a user calls them, with real media: the same bytes, whatever happens."""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import media
import pytest

from fedcmi_flwr.data.schema import read_spec
from server_app.commands import prep
from server_app.commands.main import app

REPOSITORY = Path(__file__).parents[3]
ARCHIVES: dict[str, Callable[[Path], object]] = {"cremad": media.write_cremad, "ave": media.write_ave}


def contents(directory: Path) -> dict[str, str]:
    """Return the hash of every file."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def arguments(name: str, raw: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a preparation with small frames."""
    return ["prep", name, "--raw", str(raw), "--out", str(out), "--frame-size", "32", *options]


def here(*given: str) -> int:
    """Call `fedcmi` in this process, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prep, "end_with_what_was_started", lambda: None)  # signal handlers are pytest's here
        return int(app(list(given), standalone_mode=False) or 0)


def started(*given: str) -> subprocess.Popen[str]:
    """Call `fedcmi` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "server_app.commands.main", *given], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


def finished(*given: str) -> str:
    """Call `fedcmi` in a process of its own, wait, and return what it printed."""
    process = started(*given)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return printed


@pytest.fixture(scope="module", params=list(ARCHIVES))
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return the name of a data set, an archive of it, and what one worker makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    ARCHIVES[request.param](folder / "raw")
    assert here(*arguments(request.param, folder / "raw", folder / "one", "--workers", "1")) == 0
    return request.param, folder / "raw", folder / "one"


def test_four_workers_write_the_bytes_of_one(archive: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, raw, one = archive
    printed = finished(*arguments(name, raw, tmp_path / "four", "--workers", "4"))
    stored = sum(read_spec(one).splits.values())
    assert re.search(
        rf"prepared {tmp_path / 'four'}: {stored} samples in [0-9.]+ s \([0-9.]+ samples per second\)", printed
    )
    assert contents(tmp_path / "four") == contents(one)


def test_killed_in_the_middle_and_called_again(archive: tuple[str, Path, Path], tmp_path: Path) -> None:
    """It is killed with -9 once the journal says that some rows are there, but not all."""
    name, raw, one = archive
    out, journal = tmp_path / "out", tmp_path / ".out.rows" / "journal"
    call = arguments(name, raw, out, "--workers", "2")
    process = started(*call)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made = len(journal.read_bytes().splitlines())
    assert made
    assert not out.exists()
    assert f"{made} of them were there from an interrupted call" in finished(*call)
    assert contents(out) == contents(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.lock"]


def test_called_again_when_finished(archive: tuple[str, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    name, raw, one = archive
    assert here(*arguments(name, raw, one)) == 0
    assert "there already with these settings" in capsys.readouterr().out
    assert here(*arguments(name, raw, one, "--modalities", "audio")) == 1
    assert "prepared with other settings: modalities" in capsys.readouterr().err


def test_an_error_is_one_line_and_nothing_looks_finished(
    archive: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, _ = archive
    assert here(*arguments(name, tmp_path / "nowhere", tmp_path / "out")) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {tmp_path / 'nowhere'}")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    media.write_cremad(tmp_path / "raw", ["1001"], ["DFA"])
    (tmp_path / "list.csv").write_text("1001_DFA_ANG_XX,train\n1001_DFA_SAD_XX,test\n")
    options = ("--split", "paper", "--list", str(tmp_path / "list.csv"), "--workers", "1", "--modalities", "audio")
    assert here(*arguments("cremad", tmp_path / "raw", tmp_path / "out", *options)) == 0
    stored = sorted(path.name for path in (tmp_path / "out" / "test").iterdir())
    assert stored == ["audio.npy", "labels.npy", "samples.csv"]
    assert read_spec(tmp_path / "out").splits == {"train": 1, "test": 1}
