"""Whole federations in one process, from the run-config to the run directory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from safetensors.numpy import load_file

from client_app import app as client
from client_app.app import app as client_app
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.models.file import load_model
from fedcmi_flwr.strategy.nodes import RoundFailedError
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import RunDirectoryError, read_metrics

LIGHT = {"num-server-rounds": 2, "local-epochs": 1, "batch-size": 64, "fraction-train": 0.75}


def _run(directory: Path, data: Path, nodes: int = 4, plots: bool = False, **changes: Any) -> Path:
    options = {
        **LIGHT,
        "data": str(data),
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    raw = resolve(None, options, [])
    return run_in_process(
        {**raw, "run-dir": str(directory)}, nodes, client_app, lambda line: None, plots
    )


def _same(first: Path, second: Path) -> bool:
    left, right = (load_file(directory / "model.safetensors") for directory in (first, second))
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )


def _comparable(directory: Path) -> list[dict[str, Any]]:
    return [oracle.untimed(record) for record in read_metrics(directory)]


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finishes_and_repeats_itself(
    tmp_path: Path, av_digits_dir: Path, method: str, ratio: float
) -> None:
    settings = {"method": method, "multimodal_ratio": ratio}
    first = _run(tmp_path / "a", av_digits_dir, plots=True, **settings)
    second = _run(tmp_path / "b", av_digits_dir, **settings)
    assert _same(first, second)
    assert all(
        np.isfinite(value).all() for value in load_file(first / "model.safetensors").values()
    )
    records = read_metrics(first)
    assert _comparable(second) == _comparable(first)
    assert [record["round"] for record in records] == [0, 1, 2]
    assert all(record["refused"] == [] for record in records)
    assert [len(record["nodes"]) for record in records] == [0, 3, 3]
    distils = METHODS[method].measures
    assert (records[1]["measured"]["dominant"] is not None) == distils
    assert records[1]["teacher"] is None
    of_one = distils and method != "fedcmi-plus"  # to which all received self heads are a teacher
    assert records[2]["teacher"] == (records[1]["measured"]["dominant"] if of_one else None)
    both = any(len(names) == 2 for names in records[2]["nodes"].values())
    assert ("kd" in records[2]["losses"]) == (distils and both)
    assert "kd" not in records[1]["losses"]
    assert {path.name for path in first.iterdir()} == {
        "config.json", "metrics.jsonl", "summary.md", "model.safetensors", "matrix.json", "MODEL_CARD.md",
        "checkpoints", "accuracy.png", *(("dominance.png", "temperature.png") if distils else ()),
    }  # fmt: skip


def test_another_seed_gives_other_weights(tmp_path: Path, av_digits_dir: Path) -> None:
    first, second = (
        _run(tmp_path / str(seed), av_digits_dir, seed=seed, num_server_rounds=1) for seed in (0, 1)
    )
    assert not _same(first, second)


def test_config_json_says_what_was_run(tmp_path: Path, av_digits_dir: Path) -> None:
    directory = _run(
        tmp_path / "run", av_digits_dir, method="fedcmi", num_server_rounds=1, kappa=0.5
    )
    config = json.loads((directory / "config.json").read_text())
    assert (config["method"], config["kappa"], config["lambda"], config["gamma"]) == (
        "fedcmi",
        0.5,
        1.0,
        2.0,
    )
    assert config["dataset"]["modalities"] == ["audio", "visual"]
    _, metadata = load_model(directory / "model.safetensors")
    assert metadata["notes"]["round"] == 1
    assert metadata["notes"]["run-config"]["method"] == "fedcmi"
    assert str(av_digits_dir) not in json.dumps(metadata)
    assert str(directory) not in json.dumps(metadata)


def test_a_run_directory_is_used_once(tmp_path: Path, av_digits_dir: Path) -> None:
    directory = _run(tmp_path / "run", av_digits_dir, num_server_rounds=1)
    before = (directory / "model.safetensors").read_bytes()
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        _run(tmp_path / "run", av_digits_dir, num_server_rounds=1)
    assert (directory / "model.safetensors").read_bytes() == before
    assert not (directory / "error.txt").exists()


def test_a_failed_run_says_why(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(client, "train", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
        with pytest.raises(RoundFailedError, match="disk is full"):
            _run(tmp_path / "run", av_digits_dir)
    error = (tmp_path / "run" / "error.txt").read_text()
    assert error.startswith("RoundFailedError: round 1: none of 3 replies can be used.")
    assert "OSError" in error


def test_an_error_of_an_earlier_attempt_does_not_stay(tmp_path: Path, av_digits_dir: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        _run(tmp_path / "run", tmp_path / "nowhere")
    assert (tmp_path / "run" / "error.txt").exists()
    _run(tmp_path / "run", av_digits_dir, num_server_rounds=1)
    assert not (tmp_path / "run" / "error.txt").exists()


@pytest.fixture(scope="module")
def three_modalities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 240 samples of three classes and three modalities, of which every seventh sample lacks
    one or two.
    """
    present = {name: np.ones(240, dtype=bool) for name in ("audio", "visual", "touch")}
    present["audio"][::7] = False
    present["touch"][::14] = False
    present["visual"][3::21] = False
    whole = {name: np.ones(60, dtype=bool) for name in present}
    return oracle.prepare(tmp_path_factory.mktemp("three") / "toy", present, whole)


@pytest.mark.parametrize("dominance", ["global", "client", "batch"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_three_modalities_with_absent_samples_train(
    tmp_path: Path, three_modalities: Path, ratio: float, dominance: str
) -> None:
    settings = {
        "method": "fedcmi",
        "surrogate": 0.5,
        "multimodal_ratio": ratio,
        "dominance": dominance,
        "nodes": 6,
        "fraction_train": 1.0,
    }
    directories = [
        _run(tmp_path / name, three_modalities, **settings, batch_size=16, embedding_dim=16)
        for name in ("a", "b")
    ]
    assert _same(*directories)
    records = read_metrics(directories[0])
    assert all(record["refused"] == [] for record in records)
    assert set(records[2]["losses"]) == {"fused", "self", "kd", "surrogate"}
    ways = {f"{name} {way}" for name in ("audio", "visual", "touch") for way in ("only", "head")}
    pairs = {"audio+visual only", "audio+touch only", "visual+touch only"}
    assert set(records[2]["accuracy"]) == {"fused", *ways, *pairs}
    assert records[2]["accuracy"]["fused"] > 0.6
    assert sum(records[2]["counts"]["touch only"]["count"]) == 60
    owners = records[2]["owners"]
    assert len(owners["shared"]) == 6
    assert [len(owners[name]) for name in ("audio", "visual", "touch")] == [
        6 if ratio == 1.0 else 4
    ] * 3


def test_a_modality_that_no_test_sample_has_does_not_end_the_run(tmp_path: Path) -> None:
    present = {name: np.ones(48, dtype=bool) for name in ("audio", "visual")}
    without = {"audio": np.ones(12, dtype=bool), "visual": np.zeros(12, dtype=bool)}
    data = oracle.prepare(tmp_path / "toy", present, without)
    directory = _run(tmp_path / "run", data, nodes=2, embedding_dim=8, batch_size=8)
    assert read_metrics(directory)[-1]["accuracy"]["visual only"] is None
    assert (directory / "summary.md").exists()
