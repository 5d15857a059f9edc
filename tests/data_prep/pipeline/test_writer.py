"""data_prep.pipeline.writer: written once, completely or not at all; nothing else is touched."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.writer import write_prepared
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, array_path, read_spec

SETTINGS = {"seed": 3, "modalities": ("sound", "touch")}
REPOSITORY = Path(__file__).parents[3]


def _spec() -> DatasetSpec:
    modalities = (
        ModalitySpec("sound", "series", (1, 2), "float16"),
        ModalitySpec("touch", "series", (1, 4), "uint8"),
    )
    return DatasetSpec(
        "toy", "classification", ("no", "yes"), modalities, {"train": 3}, dict(SETTINGS), {}
    )


def _build(directory: Path) -> DatasetSpec:
    (directory / "train").mkdir()
    np.save(
        array_path(directory, "train", "sound"), np.arange(6, dtype=np.float16).reshape(3, 1, 2)
    )
    return _spec()


def _must_not_build(directory: Path) -> DatasetSpec:
    raise AssertionError(f"built again in {directory}")


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    out = write_prepared(tmp_path / "new" / "toy", "toy", SETTINGS, _build)
    assert out == tmp_path / "new" / "toy"
    assert read_spec(out).settings == {"seed": 3, "modalities": ["sound", "touch"]}
    sound = np.load(array_path(out, "train", "sound"), allow_pickle=False, mmap_mode="r")
    assert sound.dtype == np.float16
    assert sound.tolist() == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert {path.name for path in out.parent.iterdir()} <= {"toy", "toy.lock"}


def test_finished_directory_is_returned_at_once(tmp_path: Path) -> None:
    out = write_prepared(tmp_path / "toy", "toy", SETTINGS, _build)
    stamp = (out / "dataset.json").stat().st_mtime_ns
    assert write_prepared(tmp_path / "toy", "toy", SETTINGS, _must_not_build) == out
    assert (out / "dataset.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("toy", {"seed": 4, "modalities": ["sound", "touch"]}, "seed = 3, asked for 4"),
        ("toy", {**SETTINGS, "extra": 1}, "extra = None, asked for 1"),
        ("toy", {"modalities": ["sound", "touch"]}, "seed = 3, asked for None"),
        ("other", SETTINGS, "name = 'toy', asked for 'other'"),
    ],
)
def test_directory_of_other_settings_is_left_alone(
    tmp_path: Path, name: str, settings: dict[str, object], problem: str
) -> None:
    out = write_prepared(tmp_path / "toy", "toy", SETTINGS, _build)
    before = (out / "dataset.json").read_bytes()
    with pytest.raises(PrepError, match=problem):
        write_prepared(out, name, settings, _must_not_build)
    assert (out / "dataset.json").read_bytes() == before


def test_other_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(PrepError, match="mine: is not empty and no prepared directory"):
        write_prepared(tmp_path / "mine", "toy", SETTINGS, _must_not_build)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("a file")
    with pytest.raises(PrepError, match="toy: is a file"):
        write_prepared(tmp_path / "toy", "toy", SETTINGS, _must_not_build)
    assert (tmp_path / "toy").read_text() == "a file"


def test_damaged_description_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "dataset.json").write_text("{")
    with pytest.raises(PrepError, match=r"dataset\.json: .*Remove it"):
        write_prepared(tmp_path / "toy", "toy", SETTINGS, _must_not_build)


def test_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    assert read_spec(write_prepared(tmp_path / "toy", "toy", SETTINGS, _build)).splits == {
        "train": 3
    }


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> DatasetSpec:
        _build(directory)
        raise PrepError("no such luck")

    with pytest.raises(PrepError, match="no such luck"):
        write_prepared(tmp_path / "toy", "toy", SETTINGS, fail)
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []


def test_description_that_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    def build(directory: Path) -> DatasetSpec:
        spec = _build(directory)
        spec.settings["level"] = math.nan
        return spec

    with pytest.raises(ValueError, match="JSON"):
        write_prepared(tmp_path / "toy", "toy", SETTINGS, build)
    assert not (tmp_path / "toy").exists()


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from test_writer import SETTINGS, _build
from data_prep.pipeline.writer import write_prepared

def build(directory):
    spec = _build(directory)
    with (directory.parent / "builds.txt").open("a") as file:
        file.write("built\\n")
    print("building", flush=True)
    sys.stdin.readline()
    return spec

print("started", flush=True)
print(write_prepared(Path({out!r}), "toy", SETTINGS, build), flush=True)
"""


@pytest.fixture
def start_child(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Return a starter of processes that prepare ``toy`` and stop inside the build until a line
    comes in.
    """
    code = CHILD.format(
        repository=str(REPOSITORY), tests=str(Path(__file__).parent), out=str(tmp_path / "toy")
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    return start


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_killed_run_leaves_nothing_that_looks_finished(
    tmp_path: Path, start_child: Callable
) -> None:
    with start_child() as child:
        assert [_line(child), _line(child)] == ["started", "building"]
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(left) == 1  # the half-made directory, under another name and without a description
    assert left[0] != tmp_path / "toy"
    assert not (left[0] / "dataset.json").exists()
    out = write_prepared(tmp_path / "toy", "toy", SETTINGS, _build)
    assert read_spec(out).splits == {"train": 3}
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [out]


def test_processes_at_once_make_one_directory(tmp_path: Path, start_child: Callable) -> None:
    """The second starts while the first is inside the build.

    It must wait for it and take its result.
    """
    with start_child() as first:
        assert [_line(first), _line(first)] == ["started", "building"]
        with start_child() as second:
            assert _line(second) == "started"
            assert not (tmp_path / "toy").exists()
            first.communicate("go on\n")
            answer, _ = second.communicate("go on, should you ask\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert answer.strip() == str(tmp_path / "toy")
    assert (tmp_path / "builds.txt").read_text() == "built\n"
    assert read_spec(tmp_path / "toy").splits == {"train": 3}
