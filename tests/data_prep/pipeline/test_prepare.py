"""data_prep.pipeline.prepare: the same bytes for any number of workers and after any
interruption.
"""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_archive import prepare_toys, write_archive

from data_prep.errors import PrepError
from data_prep.pipeline.execution import DecodingProgress, Execution
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_spec

SCRIPT = Path(__file__).parents[2] / "helpers" / "toy_archive.py"
REPOSITORY = Path(__file__).parents[3]


def contents(directory: Path) -> dict[str, str]:
    """Return the hash of every file."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_archive(tmp_path / "raw", 50)
    return tmp_path / "raw"


def test_rows_stand_where_the_plan_says(raw: Path, tmp_path: Path) -> None:
    out = prepare_toys(raw, tmp_path / "out")
    spec = read_spec(out)
    numbers = [number for number in range(50) if number != 7]
    train = [number for number in numbers if number % 3 < 2]
    assert spec.splits == {"train": len(train), "test": len(numbers) - len(train)}
    sound = np.load(out / "train" / "sound.npy")
    assert sound.dtype == np.float32
    assert sound.tolist() == [[[number, 10.0 * number]] for number in train]
    values = np.array([[number, 10.0 * number] for number in train])
    assert (spec.modalities[0].mean, spec.modalities[0].std) == pytest.approx(
        (values.mean(), values.std())
    )
    touch = np.load(out / "train" / "touch.npy")
    assert touch.tolist() == [
        [[-number, -10.0 * number] if number % 5 else [0, 0]] for number in train
    ]
    samples = load_split(out, "train")
    assert samples.has[:, 1].tolist() == [number % 5 > 0 for number in train]
    assert samples.labels.tolist() == [number % 2 for number in train]
    with (out / "excluded.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "split", "source", "reason", "label"],
            ["007", "train", "007.sound", "seven is no good", ""],
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.lock", "raw"]


def test_four_workers_write_the_bytes_of_one(raw: Path, tmp_path: Path) -> None:
    (raw / "011.touch").write_text("eleven")
    one = prepare_toys(raw, tmp_path / "one", Execution(max_bad=1))
    four = prepare_toys(raw, tmp_path / "four", Execution(4, max_bad=1))
    assert contents(one) == contents(four)
    assert "011.touch: holds 'eleven', no number" in (one / "excluded.csv").read_text()
    assert 11 not in np.load(one / "test" / "sound.npy")[:, 0, 0]


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_called_again_it_writes_the_bytes_of_an_uninterrupted_run(
    raw: Path, tmp_path: Path, workers: int
) -> None:
    whole = prepare_toys(raw, tmp_path / "whole")
    (raw / "030.sound").write_text("kill")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPT), str(raw), str(tmp_path / "out"), str(workers), "0"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if workers == 1:
        assert ended.returncode == -signal.SIGKILL
    else:
        assert "a worker process died" in ended.stderr
    assert not (tmp_path / "out").exists()
    (raw / "030.sound").write_text("30")
    steps: list[DecodingProgress] = []
    again = prepare_toys(raw, tmp_path / "out", Execution(show=steps.append))
    assert contents(again) == contents(whole)
    assert 0 < steps[0].resumed == steps[0].done < steps[-1].done == steps[-1].total == 49
    assert not list(tmp_path.glob(".out*"))


def test_changed_settings_do_not_take_over_old_rows(raw: Path, tmp_path: Path) -> None:
    (raw / "040.sound").write_text("forty")
    with pytest.raises(
        PrepError,
        match=r"1 source files cannot be used, max_bad = 0(?s:.*)040\.sound: holds 'forty'",
    ):
        prepare_toys(raw, tmp_path / "out")
    assert (tmp_path / ".out.rows").is_dir()
    for number in range(3):
        (raw / f"10{number}.sound").write_text("1")
    (raw / "040.sound").write_text("40")
    fresh = contents(prepare_toys(raw, tmp_path / "fresh"))
    assert contents(prepare_toys(raw, tmp_path / "out")) == fresh


def test_a_full_disk_says_so_and_leaves_nothing_that_looks_finished(
    raw: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(PrepError, match=r"disk is full .*Make room and call again"):
            prepare_toys(raw, disk / "out")
        assert not (disk / "out").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_nothing_to_prepare_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrepError, match="no samples are left"):
        prepare_toys(tmp_path / "empty", tmp_path / "out")


def test_a_finished_directory_is_not_made_again(raw: Path, tmp_path: Path) -> None:
    out = prepare_toys(raw, tmp_path / "out")
    stamp = (out / "dataset.json").stat().st_mtime_ns
    shutil.rmtree(raw)
    assert prepare_toys(raw, out) == out
    assert (out / "dataset.json").stat().st_mtime_ns == stamp
