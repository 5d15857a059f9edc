"""Encoders of series, hashed texts and tables learn in rounds by AdamW, on nodes that lack
modalities.
"""

from pathlib import Path

import numpy as np
import pytest
from federated import federate
from people import prepare_people

NODES = ["motion+note+lab", "motion+note+lab", "note+lab", "motion"]
TRAINED = {"optimizer": "adamw", "lr": 0.01, "weight-decay": 0.01, "local-epochs": 8, "num-server-rounds": 3,
           "batch-size": 4, "accumulate-batches": 2, "lr-schedule": "cosine", "lr-warmup-rounds": 1,
           "lr-decay-start": 1, "min-partition-size": 2}  # fmt: skip
FIRST = "motion=gru note=bag-of-words lab=mlp"
SECOND = "motion=transformer-1d note=text-cnn lab=linear"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_people(tmp_path_factory.mktemp("people"))


@pytest.mark.parametrize(
    ("encoders", "method"),
    [(FIRST, "late-fusion"), (SECOND, "late-fusion"), (SECOND, "fedcmi-plus")],
)
def test_every_branch_learns_by_adamw(
    people: Path, tmp_path: Path, encoders: str, method: str
) -> None:
    run = federate(tmp_path, people, NODES, encoder=encoders, method=method, **TRAINED)
    start = dict(run.arrays)
    for server_round in range(1, 4):
        run.round(server_round)
        assert run.strategy.report.refused == []
    assert all(np.isfinite(array).all() for array in run.arrays.values())
    moved = {name for name in start if not np.array_equal(start[name], run.arrays[name])}
    for name in ("motion", "note", "lab"):
        assert any(array.startswith(f"branches.{name}.encoder.") for array in moved)
    accuracies = run.evaluate(3)
    ways = (
        ["fused", "motion only", "note only", "lab only"] if method == "late-fusion" else ["fused"]
    )
    found = {way: accuracies[f"accuracy.{way}"] for way in ways}
    assert min(found.values()) > 0.8, found


def test_adamw_and_sgd_send_different_weights_from_one_start(people: Path, tmp_path: Path) -> None:
    found = []
    for optimizer in ("adamw", "sgd", "adamw"):
        changes = {**TRAINED, "optimizer": optimizer, "encoder": FIRST, "local-epochs": 1}
        run = federate(tmp_path / str(len(found)), people, NODES, **changes)
        found.append(run.round(1))
    adamw, sgd, again = found
    assert all(np.array_equal(adamw[name], again[name]) for name in adamw)
    table = "branches.note.encoder.trunk.weight"
    assert not np.allclose(adamw[table], sgd[table], atol=1e-5)
