"""data_prep.pipeline.writer: written once, completely or not at all; nothing else is touched."""

import csv
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.writer import (
    Exclusion,
    Samples,
    check_unreadable,
    select_modalities,
    tool_versions,
    write_excluded,
    write_prepared,
    write_split,
)
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, array_path, labels_path, read_spec, samples_path

SETTINGS = {"seed": 3, "modalities": ("sound", "touch")}
REPOSITORY = Path(__file__).parents[3]


def _samples(**changes: object) -> Samples:
    fields = {
        "ids": ["a", "b", "c"],
        "labels": np.array([0, 1, 0]),
        "groups": ["g", "h,i", "g"],
        "sources": {"sound": ["1.wav", "2.wav", "3.wav"], "touch": ["t#1", "t#2", "t#3"]},
        "arrays": {"sound": np.arange(6, dtype=np.float16).reshape(3, 1, 2), "touch": np.ones((3, 1, 4), np.uint8)},
    }
    return Samples(**{**fields, **changes})  # type: ignore[arg-type]


def _spec() -> DatasetSpec:
    modalities = (
        ModalitySpec("sound", "series", (1, 2), "float16"),
        ModalitySpec("touch", "series", (1, 4), "uint8"),
    )
    return DatasetSpec("toy", "classification", ("no", "yes"), modalities, {"train": 3}, dict(SETTINGS), {})


def _build(directory: Path) -> DatasetSpec:
    write_split(directory, "train", _samples())
    return _spec()


def _must_not_build(directory: Path) -> DatasetSpec:
    raise AssertionError(f"built again in {directory}")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    out = write_prepared(tmp_path / "new" / "toy", "toy", SETTINGS, _build)
    assert out == tmp_path / "new" / "toy"
    assert read_spec(out).settings == {"seed": 3, "modalities": ["sound", "touch"]}
    sound = np.load(array_path(out, "train", "sound"), allow_pickle=False, mmap_mode="r")
    assert sound.dtype == np.float16
    assert sound.tolist() == [[[0, 1]], [[2, 3]], [[4, 5]]]
    labels = np.load(labels_path(out, "train"), allow_pickle=False)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 0]
    assert _rows(samples_path(out, "train"))[1] == {
        "id": "b", "label": "1", "group": "h,i", "modalities": "sound+touch", "source": "2.wav;t#2",
    }  # fmt: skip
    assert {path.name for path in out.parent.iterdir()} <= {"toy", "toy.lock"}


def test_missing_modality_is_marked(tmp_path: Path) -> None:
    write_split(tmp_path, "train", _samples(present={"touch": np.array([True, False, True])}))
    rows = _rows(samples_path(tmp_path, "train"))
    assert [row["modalities"] for row in rows] == ["sound+touch", "sound", "sound+touch"]
    assert [row["source"] for row in rows] == ["1.wav;t#1", "2.wav", "3.wav;t#3"]


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
    assert read_spec(write_prepared(tmp_path / "toy", "toy", SETTINGS, _build)).splits == {"train": 3}


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> DatasetSpec:
        write_split(directory, "train", _samples())
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
    """Return a starter of processes that prepare ``toy`` and stop inside the build until a line comes in."""
    code = CHILD.format(repository=str(REPOSITORY), tests=str(Path(__file__).parent), out=str(tmp_path / "toy"))

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, start_child: Callable) -> None:
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
    """The second starts while the first is inside the build: it must wait for it and take its result."""
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


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"groups": ["g", "g"]}, "3 ids but 2 rows in the groups"),
        ({"labels": np.array([0])}, "1 rows in the labels"),
        ({"arrays": {"sound": np.zeros((4, 2))}}, "4 rows in the array of sound"),
        ({"present": {"touch": np.array([True])}}, "1 rows in the presence of touch"),
        ({"ids": ["a", "b", "a"]}, "3 samples but only 2 different ids"),
        (
            {"arrays": {"sound": np.array([[0.0], [np.inf], [0]], np.float16)}},
            "sound of sample 'b' is not finite",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(PrepError, match=problem):
        write_split(tmp_path, "train", _samples(**changes))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_counted_named_and_listed(tmp_path: Path) -> None:
    bad = [Exclusion(f"{row}", "train", f"raw/{row}.wav", f"reason {row}, really") for row in range(25)]
    with pytest.raises(
        PrepError, match=r"25 source files cannot be used, max_bad = 24(?s:.*)raw/0\.wav: reason 0"
    ) as caught:
        check_unreadable(bad, max_bad=24)
    assert "and 5 more" in str(caught.value)
    check_unreadable(bad, max_bad=25)
    write_excluded(tmp_path, bad)
    rows = _rows(tmp_path / "excluded.csv")
    assert len(rows) == 25
    assert rows[7] == {"id": "7", "split": "train", "source": "raw/7.wav", "reason": "reason 7, really"}


def test_no_list_without_exclusions(tmp_path: Path) -> None:
    write_excluded(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_modalities_come_in_stored_order() -> None:
    assert select_modalities(("a", "b", "c"), None) == ("a", "b", "c")
    assert select_modalities(("a", "b", "c"), ["c", "a"]) == ("a", "c")


@pytest.mark.parametrize("wanted", [[], ["d"], ["a", "d"]])
def test_modalities_must_exist(wanted: list[str]) -> None:
    with pytest.raises(PrepError, match="must be one or more of a, b, c"):
        select_modalities(("a", "b", "c"), wanted)


def test_versions_are_those_installed() -> None:
    versions = tool_versions("numpy", "scikit-learn")
    assert versions["numpy"] == np.__version__
    assert list(versions) == ["numpy", "scikit-learn"]
    assert json.dumps(versions)
