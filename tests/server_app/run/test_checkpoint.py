"""Checkpoints on disk.

What is read is what was written, and a writer may be killed at any moment.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.models.file import CheckpointError
from fedcmi_flwr.strategy.state import ServerState
from server_app.run.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    stored_checkpoints,
    write_checkpoint,
)
from server_app.run.directory import RunDirectory, read_metrics
from server_app.run.resume import prepare_resume

CONFIG = {"seed": 0, "lr": 0.05, "resume": False, "data": "av-digits"}


def checkpoint(server_round: int, size: int = 3) -> Checkpoint:
    """Return a checkpoint of which every number is its round, with names in no alphabetic order."""
    arrays = {name: np.full(size, server_round, np.float32) for name in ("z.weight", "a.weight")}
    arrays["b.num_batches_tracked"] = np.array(server_round)
    temperature = {"visual": torch.tensor([1.0, 0.5], dtype=torch.float64)}
    dominance = Dominance(
        "audio", {"visual": torch.tensor([float("nan"), 1.5], dtype=torch.float64)}, temperature
    )
    optimizer = {"shared/steps": np.array(2), "shared/m_t/z.weight": np.full(3, 0.1)}
    state = ServerState(dominance, {"c/z": np.array([[True, False]])}, optimizer)
    # Not contiguous, and a scalar
    average = {
        "z.weight": np.arange(6.0).reshape(2, 3).T,
        "b": np.float64(0.5),
    }
    return Checkpoint(server_round, arrays, average, state, CONFIG, {"flwr": "1.41.0"})


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.server_round, found.run_config, found.versions) == (
        expected.server_round,
        expected.run_config,
        expected.versions,
    )
    assert found.state.dominance.dominant == expected.state.dominance.dominant
    pairs = [(found.arrays, expected.arrays), (found.average, expected.average)]
    pairs += [
        (found.state.method, expected.state.method),
        (found.state.optimizer, expected.state.optimizer),
    ]
    for part in ("ratio", "temperature"):
        tensors = [getattr(side.state.dominance, part) for side in (found, expected)]
        pairs.append(
            tuple({name: value.numpy() for name, value in side.items()} for side in tensors)
        )
    for left, right in pairs:
        assert list(left) == list(right)  # the order decides that of sums and of fields in messages
        for name, value in right.items():
            assert (left[name].dtype, left[name].shape) == (value.dtype, value.shape)
            assert np.array_equal(left[name], value, equal_nan=value.dtype.kind == "f")


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    empty = Checkpoint(7, {"w": np.zeros((2, 0), np.float16)}, {}, ServerState(NOBODY), CONFIG, {})
    for value in (checkpoint(3), empty):
        write_checkpoint(tmp_path, value, keep=2)
        assert_equal(read_checkpoint(stored_checkpoints(tmp_path)[-1]), value)


def test_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1), keep=1)
    command = [shutil.which("sha256sum") or "sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path / "round-000001", check=True, capture_output=True)


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for server_round in (9, 10, 999_999, 1_000_000):
        write_checkpoint(tmp_path, checkpoint(server_round), keep=3)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert [path.name for path in stored_checkpoints(tmp_path)] == [
        "round-000010",
        "round-999999",
        "round-1000000",
    ]


def warnings_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that will hold the warnings."""
    warned: list[str] = []
    logger = "server_app.run.checkpoint.logger"
    monkeypatch.setattr(f"{logger}.warning", lambda text, *values: warned.append(text % values))
    return warned


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def resign(path: Path) -> None:
    """Write checksums that hold for whatever the files are."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in path.iterdir()
    ]
    (path / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def empty_state(path: Path) -> None:
    (path / "state.json").write_text("{}", encoding="utf-8")
    resign(path)


def other_arrays(path: Path) -> None:
    (path / "arrays.safetensors").write_bytes(b"\x80\x04N.")
    resign(path)


def unreadable_arrays(path: Path) -> None:
    """Put what no file can be read from in place of the arrays, as a bad block of a disk would."""
    (path / "arrays.safetensors").unlink()
    (path / "arrays.safetensors").mkdir()


BREAK: dict[str, Callable[[Path], object]] = {
    "array bit": lambda path: flip(path / "arrays.safetensors", -1),
    "state bit": lambda path: flip(path / "state.json", 40),
    "sum bit": lambda path: flip(path / "SHA256SUMS", 0),
    "no sums": lambda path: (path / "SHA256SUMS").unlink(),
    "empty sums": lambda path: (path / "SHA256SUMS").write_bytes(b""),
    "sums of nothing": lambda path: (path / "SHA256SUMS").write_bytes(b"\n\xff\n"),
    "no arrays": lambda path: (path / "arrays.safetensors").unlink(),
    "unreadable arrays": unreadable_arrays,
    "no state": lambda path: (path / "state.json").unlink(),
    "cut": lambda path: (path / "arrays.safetensors").write_bytes(
        (path / "arrays.safetensors").read_bytes()[:50]
    ),
    "state of nothing": empty_state,
    "arrays of another format": other_arrays,
    "nothing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", BREAK)
def test_a_broken_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = warnings_of(monkeypatch)
    for server_round in (1, 2):
        write_checkpoint(tmp_path / CHECKPOINTS, checkpoint(server_round), keep=2)
    newest = tmp_path / CHECKPOINTS / "round-000002"
    BREAK[damage](newest)
    if damage == "nothing":
        newest.mkdir()
    with pytest.raises(CheckpointError, match="round-000002 is broken: "):
        read_checkpoint(newest)
    assert_equal(newest_checkpoint(tmp_path), checkpoint(1))
    assert len(warned) == 1
    assert str(newest) in warned[0]
    BREAK[damage](tmp_path / CHECKPOINTS / "round-000001")
    with pytest.raises(CheckpointError, match="no checkpoint to go on from, "):
        newest_checkpoint(tmp_path)


def write_for_ever(run_dir: Path, size: int, written: int) -> None:
    """Go on with the run in a directory, or begin one, with rounds that take no time.

    A byte tells of each.
    """
    if (run_dir / CHECKPOINTS).is_dir() and stored_checkpoints(run_dir / CHECKPOINTS):
        done = prepare_resume(run_dir, CONFIG).server_round
    else:
        (run_dir / "metrics.jsonl").unlink(missing_ok=True)
        done = -1
    directory = RunDirectory(run_dir, resumed=True)
    for server_round in range(done + 1, 10**9):
        directory.append({"round": server_round, "padding": "x" * 5000})
        write_checkpoint(run_dir / CHECKPOINTS, checkpoint(server_round, size), keep=2)
        os.write(written, b".")


def killed(run_dir: Path, size: int, after: int, seconds: float) -> None:
    """Write in a process of its own, forked from this one, and kill it -9 some time after some
    checkpoints.
    """
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, of forks beside threads
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            write_for_ever(run_dir, size, tell)
        os._exit(1)
    os.close(tell)
    for _ in range(after):
        os.read(told, 1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(told)
    assert os.WIFSIGNALED(status), "the writer ended before it was killed"


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_writer_may_be_killed_at_any_moment(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times in one directory.

    No checkpoint is ever broken, and the run goes on from its last one.
    """
    warned = warnings_of(monkeypatch)
    chance, reached = random.Random(size), -1
    for _ in range(20):
        killed(tmp_path, size, chance.randrange(1, 4), 0.03 * chance.random())
        found = newest_checkpoint(tmp_path)
        assert_equal(found, checkpoint(found.server_round, size))
        assert found.server_round > reached
        reached = found.server_round
        records = read_metrics(tmp_path)
        assert [record["round"] for record in records] == list(range(len(records)))
        assert len(records) in (reached + 1, reached + 2)  # the record comes first
    assert warned == []
    write_checkpoint(tmp_path / CHECKPOINTS, checkpoint(reached + 1), keep=2)
    newest = [f"round-{server_round:06}" for server_round in (reached, reached + 1)]
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == newest


@pytest.mark.parametrize("name", ["round-000003-backup", "round-", "round-x", "round-000009.bak"])
def test_foreign_names_are_left_alone(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / CHECKPOINTS / name
    foreign.mkdir(parents=True)
    for server_round in (1, 2, 3):
        write_checkpoint(tmp_path / CHECKPOINTS, checkpoint(server_round), keep=1)
    assert newest_checkpoint(tmp_path).server_round == 3
    assert [path.name for path in stored_checkpoints(tmp_path / CHECKPOINTS)] == [
        "round-000002",
        "round-000003",
    ]
    assert foreign.is_dir()
