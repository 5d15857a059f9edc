"""200 rounds in which every tenth reply holds one hostile float.

The accuracy is that of the clean run.
"""

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from damaged import Damage, DamagedGrid

from fedcmi_flwr.run_config import read_run_config
from server_app.app import run
from server_app.launch.start import resolve
from server_app.run.directory import read_metrics

ROUNDS, NODES, LAST = 200, 3, 20
EVERY = 10
"""Of so many replies one is hostile."""
HOSTILE = 3e38
"""Finite in float32, and so no check of a number alone finds it."""
TEST_SAMPLES = 200
SETTINGS = {"num-server-rounds": ROUNDS, "local-epochs": 1, "batch-size": 16, "embedding-dim": 4, "method": "fedavg",
            "min-partition-size": 2, "min-train-nodes": NODES, "fraction-train": 1.0, "partition": "iid", "lr": 0.1,
            "multimodal-ratio": 1.0, "device": "cpu", "checkpoint-every": 0}  # fmt: skip


class EveryTenth:
    """Which reply is hostile, and in which array."""

    def __init__(self) -> None:
        self.replies = 0
        self.done: list[tuple[int, str]] = []
        """Round and group of each hostile float."""

    def __call__(self, server_round: int, _: int) -> dict[str, float]:
        """Return the damage of one reply."""
        self.replies += 1
        if self.replies % EVERY:
            return {}

        group = ("audio", "visual", "shared")[len(self.done) % 3]
        self.done.append((server_round, group))
        return {f"{group}/float32": HOSTILE}


def train(directory: Path, data: Path, damage: Damage) -> list[dict[str, Any]]:
    raw = resolve(None, {**SETTINGS, "data": str(data), "run-dir": str(directory)}, [])
    run(read_run_config(raw), DamagedGrid(NODES, raw, damage), None, plots=False)
    return read_metrics(directory)


def accuracy(records: list[dict[str, Any]]) -> float:
    return float(np.mean([record["accuracy"]["fused"] for record in records[-LAST:]]))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return data that can be learned, but not to the end: a model without use has 33 %."""
    train_split, test_split = (
        {name: np.ones(count, dtype=bool) for name in ("audio", "visual")}
        for count in (30, TEST_SAMPLES)
    )
    return oracle.prepare(
        tmp_path_factory.mktemp("hostile") / "toy", train_split, test_split, signal=0.3
    )


def test_one_hostile_float_in_ten_replies_costs_nothing(tmp_path: Path, hard: Path) -> None:
    """Noise is what another draw of the test samples would give.

    Two standard errors of an accuracy.
    """
    every_tenth = EveryTenth()
    clean = train(tmp_path / "clean", hard, lambda _, __: {})
    hostile = train(tmp_path / "hostile", hard, every_tenth)

    assert (len(clean), len(hostile)) == (ROUNDS + 1, ROUNDS + 1)
    assert len(every_tenth.done) == ROUNDS * NODES // EVERY
    found = [
        (record["round"], line.partition("update of '")[2].partition("'")[0])
        for record in hostile
        for line in record["refused"]
    ]
    assert found == every_tenth.done
    assert not any(record["failed"] for record in hostile)

    expected = accuracy(clean)
    noise = 2 * np.sqrt(expected * (1 - expected) / TEST_SAMPLES)
    assert 0.5 < expected < 0.9
    assert abs(accuracy(hostile) - expected) < noise
