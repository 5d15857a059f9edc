"""What people ask a run for first, by the command line: the best round, an early end, heads of a
node's own, and nodes that do less.
"""

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from commands import fedcmi
from safetensors.numpy import load_file

from fedcmi_flwr.models.file import load_model
from server_app.run.directory import read_metrics

SMALL: dict[str, Any] = {
    "local-epochs": 1,
    "batch-size": 8,
    "embedding-dim": 4,
    "min-partition-size": 2,
    "partition": "iid",
    "fraction-train": 1.0,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(60, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("asked for") / "toy", present)


def run(directory: Path, data: Path, rounds: int, **changes: Any) -> Path:
    """Train by ``fedcmi run``, with underscores for hyphens."""
    named = {key.replace("_", "-"): value for key, value in changes.items()}
    settings = [f"--set={key}={value}" for key, value in {**SMALL, **named}.items()]
    where = ["--data", data, "--run-dir", directory, "--num-nodes", "2", "--rounds", str(rounds)]
    done = fedcmi("run", "--engine", "in-process", *where, *settings)
    assert done.exit_code == 0, done.output
    return directory


def weights(directory: Path) -> dict[str, bytes]:
    return {
        name: value.tobytes() for name, value in load_file(directory / "model.safetensors").items()
    }


def test_the_best_round_is_kept_and_training_ends_early(toy: Path, tmp_path: Path) -> None:
    """The training data are easy: soon no round is better than all before."""
    best = {"keep_best": "fused", "patience": 2, "calibration_share": 0.3}
    found = run(tmp_path / "run", toy, 30, **best)
    records = read_metrics(found)
    figures = [record["validation"]["fused"] for record in records[1:]]
    chosen = 1 + figures.index(max(figures))

    assert len(figures) == chosen + 2 < 30
    assert load_model(found / "model.safetensors")[1]["notes"]["round"] == chosen
    summary = (found / "summary.md").read_text(encoding="utf-8")
    assert f"best by validation (round {chosen})" in summary


def test_a_node_keeps_heads_of_its_own_that_predict(toy: Path, tmp_path: Path) -> None:
    own = {"personal_epochs": 1, "personal_models": "keep", "fraction_evaluate": 1.0}
    found = run(tmp_path / "run", toy, 1, **own)
    for place in (0, 1):
        model = found / "personal" / f"partition-{place}"
        assert weights(model) != weights(found)
        done = fedcmi("predict", model, "--data", toy)
        assert done.exit_code == 0, done.output
        assert "accuracy" in done.output


def test_nodes_that_do_less_do_what_they_are_told(toy: Path, tmp_path: Path) -> None:
    """One pass of three, and one batch of three: both are a run that asks for no more."""
    whole = {"method": "scaffold", "batch_size": 60}
    once = run(tmp_path / "once", toy, 2, **whole)
    thrice = run(tmp_path / "thrice", toy, 2, **whole, local_epochs=3)
    told = run(tmp_path / "told", toy, 2, **whole, local_epochs=3, node_epochs="0=1 1=1")
    timed = run(tmp_path / "timed", toy, 2, **whole, local_epochs=3, time_budget=1e-9)

    assert weights(told) == weights(once)
    assert weights(timed) == weights(once)
    assert weights(thrice) != weights(once)
