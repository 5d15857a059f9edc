"""`fedcmi prep` as a user calls it, with real media: the same bytes, whatever happens."""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import media
import pytest
from spoken_digits import write_avmnist as write_digits

from fedcmi_flwr.data.schema import read_spec
from server_app.commands import preparing
from server_app.commands.main import app

REPOSITORY = Path(__file__).parents[3]
THREE = "audio+visual+contour"


@dataclass(frozen=True)
class Case:
    """A data set with a small archive of its own."""

    name: str
    write: Callable[[Path], object] | None
    """Writes the raw archive; None: there is none."""
    options: Sequence[str]

    def arguments(self, raw: Path, out: Path, *more: str) -> list[str]:
        """Return the command line of a preparation."""
        source = ["--raw", str(raw)] if self.write else []
        return ["prep", self.name, *source, "--out", str(out), *self.options, *more]


def write_avmnist(raw: Path) -> None:
    """Write 100 recordings for testing and 140 others."""
    write_digits(raw, indices=(*range(5), *range(10, 17)), images=240)


CASES = {
    case.name: case
    for case in (
        Case("cremad", media.write_cremad, ["--frame-size", "32"]),
        Case("ave", media.write_ave, ["--frame-size", "32"]),
        Case("avmnist", write_avmnist, ["--train-size", "130", "--modalities", THREE]),
        Case("av-digits", None, ["--seed", "3"]),
    )
}


def contents(directory: Path) -> dict[str, str]:
    """Return the hash of every file."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def here(*given: str) -> int:
    """Call `fedcmi` in this process, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        # Signal handlers are pytest's here
        patch.setattr(preparing, "end_with_what_was_started", lambda advice: None)
        return int(app(list(given), standalone_mode=False) or 0)


def started(*given: str) -> subprocess.Popen[str]:
    """Call `fedcmi` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "server_app.commands.main", *given],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(*given: str) -> str:
    """Call `fedcmi` in a process of its own, wait, and return what it printed."""
    process = started(*given)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return printed


@dataclass(frozen=True)
class Archive:
    """A raw archive, and what one worker makes of it."""

    case: Case
    raw: Path
    one: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        """Return the command line of a preparation of the archive."""
        return self.case.arguments(self.raw, out, *more)


@pytest.fixture(scope="module", params=list(CASES))
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Prepare a data set in this process."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    if case.write:
        case.write(folder / "raw")
    made = Archive(case, folder / "raw", folder / "one")
    assert here(*made.arguments(made.one, "--workers", "1")) == 0
    return made


def test_four_workers_write_the_bytes_of_one(archive: Archive, tmp_path: Path) -> None:
    printed = finished(*archive.arguments(tmp_path / "four", "--workers", "4"))
    stored = sum(read_spec(archive.one).splits.values())
    assert re.search(
        rf"prepared {tmp_path / 'four'}: {stored} samples in [0-9.]+ s \([0-9.]+ samples per second\)",
        printed,
    )
    assert contents(tmp_path / "four") == contents(archive.one)


def test_killed_in_the_middle_and_called_again(archive: Archive, tmp_path: Path) -> None:
    """It is killed with -9 once the journal says that some rows are there, but not all."""
    out, journal = tmp_path / "out", tmp_path / ".out.rows" / "journal"
    call = archive.arguments(out, "--workers", "2")
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
    assert contents(out) == contents(archive.one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.lock"]


def test_called_again_when_finished(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(*archive.arguments(archive.one)) == 0
    assert "there already with these settings" in capsys.readouterr().out
    assert here(*archive.arguments(archive.one, "--modalities", "audio")) == 1
    refused = capsys.readouterr().err
    assert "was prepared with other settings" in refused
    assert "asked for ['audio']" in refused


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.write], ids=lambda case: case.name
)
def test_an_error_is_one_line_and_nothing_looks_finished(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(*case.arguments(tmp_path / "nowhere", tmp_path / "out")) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {tmp_path / 'nowhere'}")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_levels_of_the_built_in_data_need_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("prep", "av-digits", "--image-noise", "1") == 1
    assert capsys.readouterr().err.startswith("error: image_noise: give --out too")


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    media.write_cremad(tmp_path / "raw", ["1001"], ["DFA"])
    (tmp_path / "list.csv").write_text("1001_DFA_ANG_XX,train\n1001_DFA_SAD_XX,test\n")
    options = (
        "--split",
        "paper",
        "--list",
        str(tmp_path / "list.csv"),
        "--workers",
        "1",
        "--modalities",
        "audio",
    )
    assert here(*CASES["cremad"].arguments(tmp_path / "raw", tmp_path / "out", *options)) == 0
    stored = sorted(path.name for path in (tmp_path / "out" / "test").iterdir())
    assert stored == ["audio.npy", "labels.npy", "samples.csv"]
    assert read_spec(tmp_path / "out").splits == {"train": 1, "test": 1}
