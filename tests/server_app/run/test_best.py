"""The best round by validation data is kept, training ends in time, and a run that went on does the
same.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from safetensors.numpy import load_file

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.selection import SelectionConfig
from fedcmi_flwr.models.file import load_model
from server_app.launch.record import go_on
from server_app.launch.start import resolve, run_in_process
from server_app.run import federation
from server_app.run.best import BestModel, best_by_validation
from server_app.run.directory import read_metrics

SMALL = {"num-server-rounds": 8, "local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "min-partition-size": 2,
         "partition": "iid", "device": "cpu", "method": "fedcmi-plus", "fraction-train": 1.0,
         "calibration-share": 0.2, "keep-best": "macro"}  # fmt: skip
FIGURES = (0.3, 0.5, 0.4, 0.5, 0.45, 0.9, 0.9, 0.9)
"""Of rounds 1 to 8: round 2 is the best of the first five, and with a patience of 3 training
ends after round 5."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(60, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("best") / "toy", present)


@pytest.fixture
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validation find FIGURES."""
    validated = federation.Federation._validated

    def found(run: federation.Federation, server_round: int) -> Any:
        value = FIGURES[server_round - 1] if server_round else 0.1
        figures = dict.fromkeys(("fused", "macro", "worst-class", "f1"), value)
        with monkeypatch.context() as patch:
            patch.setattr(federation, "selection_figures", lambda *_: figures)
            return validated(run, server_round)

    monkeypatch.setattr(federation.Federation, "_validated", found)


def config(directory: Path, data: Path, **changes: Any) -> dict[str, Any]:
    raw = resolve(None, {**SMALL, "data": str(data), **changes}, [f"run-dir={directory}"])
    return {**raw, "node-memory": "run-dir"}


def quietly(line: str) -> None:
    """Show nothing."""


@pytest.mark.usefixtures("_scripted")
def test_the_best_rounds_model_is_kept_and_training_ends_in_time(toy: Path, tmp_path: Path) -> None:
    stopped = run_in_process(
        config(tmp_path / "early", toy, patience=3), 3, client_app, quietly, plots=False
    )
    short = {**SMALL, "num-server-rounds": 2, "keep-best": "off"}
    two = run_in_process(
        config(tmp_path / "two", toy, **short), 3, client_app, quietly, plots=False
    )

    records = read_metrics(stopped)
    assert [record["round"] for record in records] == list(range(6))
    assert records[2]["validation"]["macro"] == 0.5
    found, expected = load_file(stopped / "model.safetensors"), load_file(two / "model.safetensors")
    assert {name for name in expected if not np.array_equal(found[name], expected[name])} == set()
    _, metadata = load_model(stopped / "model.safetensors")
    assert metadata["notes"]["round"] == 2
    assert not (stopped / "best").exists()
    summary = (stopped / "summary.md").read_text(encoding="utf-8")
    assert "best by validation (round 2)" in summary
    assert (
        "the model is that of round 2, the best by macro on validation data; ended after 5 of 8 "
        "rounds" in summary
    )


@pytest.mark.usefixtures("_scripted")
@pytest.mark.parametrize("last", [2, 4, 5])
def test_a_run_that_went_on_ends_alike(toy: Path, tmp_path: Path, last: int) -> None:
    """Interrupted after the best round, in between, and when its patience had ended."""
    whole = run_in_process(
        config(tmp_path / "whole", toy, patience=3), 3, client_app, quietly, plots=False
    )
    parts, raw = tmp_path / "parts", config(tmp_path / "parts", toy, patience=3)

    def until(line: str) -> None:
        if line.startswith(f"round {last}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_process(raw, 3, client_app, until, plots=False)
    launch = {"raw": raw, "num_nodes": 3, "engine": "in-process"}
    (parts / "launch.json").write_text(json.dumps(launch), encoding="utf-8")
    with go_on(parts, None, {}, [], None, None) as chosen:
        run_in_process(chosen.raw, 3, client_app, quietly, plots=False)

    models = [load_file(path / "model.safetensors") for path in (whole, parts)]
    assert {
        name for name in models[0] if not np.array_equal(models[0][name], models[1][name])
    } == set()
    keys = ("round", "accuracy", "validation")
    first, second = (
        [[r[key] for key in keys] for r in read_metrics(path)] for path in (whole, parts)
    )
    assert first == second


def test_the_test_split_is_never_chosen_on(toy: Path, tmp_path: Path) -> None:
    raw = config(tmp_path / "run", toy, **{"calibration-share": 0.0})
    with pytest.raises(
        ConfigError,
        match=r"keep-best = 'macro': the data has no split 'val' .* set calibration-share",
    ):
        run_in_process(raw, 3, client_app, quietly, plots=False)


def test_patience_needs_a_measure_of_better() -> None:
    with pytest.raises(ConfigError, match="patience = 2: set keep-best"):
        SelectionConfig("off", 2)


def test_models_stay_as_long_as_a_checkpoint_may_need_them(tmp_path: Path) -> None:
    """Rounds 1, 3 and 4 are each the best so far; from round 3 on a run needs those of 3 and 4."""
    best = BestModel(tmp_path, SelectionConfig("fused"))
    for number, value in enumerate((0.2, 0.1, 0.3, 0.4), start=1):
        best.note(number, {"fused": value}, Path.touch)
    best.forget_before(3)
    assert sorted(path.stem for path in best.directory.iterdir()) == [
        "round-000003",
        "round-000004",
    ]
    records = [{"round": 0, "validation": {"fused": 0.9}}, {"round": 1, "validation": {"fused": 0.2}},
               {"round": 2, "validation": {"fused": None}}, {"round": 3, "validation": {"fused": 0.3}}]  # fmt: skip
    best.restore(records)
    assert (best.server_round, best.value, best.last_round) == (3, 0.3, 3)
    assert [path.stem for path in best.directory.iterdir()] == ["round-000003"]
    assert best_by_validation(records[:1], "fused") is None
