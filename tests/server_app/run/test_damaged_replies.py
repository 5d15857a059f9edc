"""One damaged float of a reply: refused by default.

Without that bound, the run goes back to its last good model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from damaged import Damage, DamagedGrid
from safetensors.numpy import load_file

from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.strategy.nodes import RoundFailedError
from server_app.app import run
from server_app.launch.recipes import RECIPES
from server_app.launch.start import read_recipe, resolve
from server_app.run.checkpoint import stored_checkpoints
from server_app.run.directory import read_metrics

NODES = 4
SETTINGS = {"num-server-rounds": 4, "local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "min-partition-size": 2,
            "partition": "iid", "device": "cpu", "method": "fedavg", "fraction-train": 1.0, "lr": 0.02}  # fmt: skip
OFF = {"max-norm-ratio": 0.0}
RECIPES_OF_RUNS = [
    path for path in sorted(RECIPES.rglob("*.toml")) if path.parent.name not in ("suites", "tuned")
]
ITS_OWN = ("num-server-rounds", "data-set", "data", "min-partition-size", "encoder", "embedding-dim",
           "initialization", "augment", "view-size", "view-frames", "local-epochs", "lr-decay-start")  # fmt: skip
"""Keys of a recipe that belong to its data, or to its number of rounds."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("damaged") / "toy", present)


def train(
    directory: Path, data: Path, damage: Damage, after_round: Any = None, **changes: Any
) -> list[dict[str, Any]]:
    """Run a federation with damaged replies and return its records."""
    raw = resolve(None, {**SETTINGS, "data": str(data), "run-dir": str(directory), **changes}, [])
    raw = {**raw, "node-memory": "run-dir" if raw["checkpoint-every"] else "context"}
    run(read_run_config(raw), DamagedGrid(NODES, raw, damage), after_round, plots=False)
    return read_metrics(directory)


def only_in(server_round: int, **values: float) -> Damage:
    """Return damage of partition 0's reply in one round."""
    named = {f"{group}/float32": value for group, value in values.items()}
    return lambda now, partition: named if (now, partition) == (server_round, 0) else {}


def unharmed(_: int, __: int) -> dict[str, float]:
    return {}


@pytest.mark.parametrize(("group", "value"), [("audio", 3e38), ("shared", -500.0)])
def test_a_reply_with_a_damaged_float_is_refused_by_default(
    tmp_path: Path, toy: Path, group: str, value: float
) -> None:
    records = train(tmp_path / "run", toy, only_in(2, **{group: value}), **{"num-server-rounds": 3})
    assert [len(record["refused"]) for record in records] == [0, 0, 1, 0]
    assert "max-norm-ratio" in records[2]["refused"][0]
    assert set(records[2]["owners"][group]) == {1, 2, 3}


@pytest.mark.parametrize("recipe", RECIPES_OF_RUNS, ids=lambda path: path.stem)
def test_honest_runs_of_every_recipe_do_not_notice(tmp_path: Path, toy: Path, recipe: Path) -> None:
    """How a recipe trains; data, model and number of rounds are the toy's."""
    own = {*ITS_OWN, "modalities"} if recipe.parent.name == "paired" else ITS_OWN
    kept = {key: value for key, value in read_recipe(recipe).items() if key not in own}
    for name, changes in {"on": {}, "off": OFF}.items():
        train(tmp_path / name, toy, unharmed, **{**kept, "num-server-rounds": 2, **changes})
    on, off = (load_file(tmp_path / name / "model.safetensors") for name in ("on", "off"))
    assert {name: value.tobytes() for name, value in on.items()} == {
        n: v.tobytes() for n, v in off.items()
    }


@pytest.mark.parametrize("method", ["fedcmi", "scaffold"])
def test_a_model_that_no_node_can_train_on_is_taken_back(
    tmp_path: Path, toy: Path, method: str
) -> None:
    """Round 2's model is ruined; round 3 goes back to round 1's.

    All checkpoints that stay are good.
    """
    kept: list[list[str]] = []

    def look() -> None:
        kept.append(
            [path.name[-1] for path in stored_checkpoints(tmp_path / "run" / "checkpoints")]
        )

    records = train(tmp_path / "run", toy, only_in(2, **dict.fromkeys(("audio", "visual"), 3e38)), look,
                    method=method, **OFF)  # fmt: skip
    assert [bool(record["failed"]) for record in records] == [False, False, False, True, False]
    assert any("last good weights" in line for line in records[3]["bounded"])
    assert records[3]["accuracy"] == records[1]["accuracy"]
    assert kept == [[], ["1"], ["1", "2"], ["1"], ["1", "4"]]
    assert all(
        np.abs(v).max() < 1e3 for v in load_file(tmp_path / "run" / "model.safetensors").values()
    )


def test_a_run_that_ends_with_a_ruined_model_can_go_on(tmp_path: Path, toy: Path) -> None:
    """No failed round is put up with, so round 3 ends the run.

    Its checkpoints let it go on from round 1.
    """
    damage = only_in(2, audio=3e38, visual=3e38)
    changes = {"failure-budget": 0, "checkpoint-keep": 1, **OFF}
    with pytest.raises(RoundFailedError, match="diverged"):
        train(tmp_path / "run", toy, damage, **changes)
    assert [path.name for path in stored_checkpoints(tmp_path / "run" / "checkpoints")] == [
        "round-000001"
    ]
    train(tmp_path / "run", toy, unharmed, resume=True, **changes)
    train(tmp_path / "whole", toy, unharmed, **changes)
    found, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole")
    )
    assert {name: value.tobytes() for name, value in found.items()} == {
        n: v.tobytes() for n, v in expected.items()
    }


def test_a_run_killed_after_a_ruined_checkpoint_goes_back_too(tmp_path: Path, toy: Path) -> None:
    def kill() -> None:
        if len(read_metrics(tmp_path / "run")) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", toy, only_in(2, audio=3e38, visual=3e38), kill, **OFF)
    records = train(tmp_path / "run", toy, unharmed, resume=True, **OFF)
    assert [bool(record["failed"]) for record in records] == [False, False, False, True, False]
    assert records[4]["accuracy"] != records[3]["accuracy"]


def test_a_model_that_gives_no_numbers_is_not_taken(tmp_path: Path, toy: Path) -> None:
    """In the last round nobody is left to find the model unusable; the server looks itself."""
    records = train(
        tmp_path / "run",
        toy,
        only_in(4, **dict.fromkeys(("audio", "visual", "shared"), 3e38)),
        **OFF,
    )
    assert "gives NaN or Inf" in records[4]["failed"]
    assert records[4]["accuracy"] == records[3]["accuracy"]


def test_some_damaged_floats_in_every_round_cost_nothing(tmp_path: Path, toy: Path) -> None:
    rng = np.random.default_rng(0)

    def damage(_: int, __: int) -> dict[str, float]:
        hit = rng.random() < 0.1
        where, value = (
            rng.choice(["audio", "visual", "shared"]),
            rng.choice([3e38, -1e30, 1e5, np.nan]),
        )
        return {f"{where}/float32": float(value)} if hit else {}

    changes = {"num-server-rounds": 8, "checkpoint-every": 0}
    clean, damaged = (
        train(tmp_path / str(each.__name__), toy, each, **changes)[-1]
        for each in (unharmed, damage)
    )
    assert damaged["accuracy"]["fused"] > clean["accuracy"]["fused"] - 0.1
