"""Trackers get a run's figures while it goes on, its plots and its model, and cannot end it."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import fedcmi

from server_app.run.directory import read_metrics
from server_app.run.scalars import scalars
from server_app.run.trackers import identity
from server_app.run.tracking import Trackers

QUICK = ["--engine", "in-process", "--num-nodes", "2", "--set", "local-epochs=1", "--rounds", "2"]


class Noting:
    """A tracker of another package, which notes what it gets."""

    events: ClassVar[list[tuple[str, Any]]] = []

    def begin(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Note the settings."""
        self.events.append(("begin", (run_dir, dict(settings))))

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Note a round."""
        self.events.append(("log", (server_round, dict(figures))))

    def finish(self, plots: Sequence[Path], model: Path | None) -> None:
        """Note the end."""
        self.events.append(("finish", ([path.name for path in plots], model)))


class Broken(Noting):
    """A tracker whose service is down from the first round on."""

    calls: ClassVar[list[int]] = []

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Fail."""
        self.calls.append(server_round)
        raise ConnectionError("the service is down")


def run(directory: Path, data: Path, track: str, *more: str) -> Any:
    return fedcmi(
        "run", *QUICK, "--data", data, "--run-dir", directory, "--set", f"track={track}", *more
    )


def test_a_tracker_gets_everything_and_no_paths(
    av_digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noting, "events", [])
    done = run(tmp_path / "run", av_digits_dir, f"{__name__}:Noting")
    assert done.exit_code == 0, done.output
    kinds = [kind for kind, _ in Noting.events]
    assert kinds == ["begin", "log", "log", "log", "finish"]
    directory, settings = Noting.events[0][1]
    assert (directory, settings["method"]) == (tmp_path / "run", "fedcmi-plus")
    assert {"data", "run-dir", "pretrained"}.isdisjoint(settings)
    for (server_round, figures), record in zip(
        (found for kind, found in Noting.events if kind == "log"),
        read_metrics(tmp_path / "run"),
        strict=True,
    ):
        expected = {
            tag: value for tag, value, _ in scalars(record, [str(digit) for digit in range(10)])
        }
        assert (server_round, figures) == (record["round"], expected)
    assert "accuracy/fused" in figures
    plots, model = Noting.events[-1][1]
    assert "accuracy.png" in plots
    assert model == tmp_path / "run" / "model.safetensors"


def test_a_run_that_failed_closes_its_trackers(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noting, "events", [])
    done = run(tmp_path / "run", av_digits_dir, f"{__name__}:Noting", "--set", "lr=1e9")
    assert done.exit_code == 1
    assert Noting.events[-1] == ("finish", ([], None))


def test_a_tracker_that_raises_is_left_out_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Noting, "events", [])
    trackers = Trackers({"down": Broken(), "up": Noting()}, tmp_path)
    logger = logging.getLogger("flwr.fedcmi")
    caplog.set_level(logging.WARNING, logger.name)
    # Whatever other tests have made of Flower's logger
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "disabled", False)
    trackers.begin({"dataset": {"classes": ["a"]}, "lr": 0.1})
    empty: dict[str, Any] = {
        "accuracy": {"fused": float("nan")},
        "macro": {},
        "worst_class": {},
        "losses": {},
    }
    for number in (0, 1):
        more = {
            "round": number,
            "seconds": 1.0,
            "refused": [],
            "measured": {"ratio": {}, "temperature": {}},
        }
        trackers.record(empty | more)
    trackers.finish()
    assert Broken.calls == [0]
    assert (
        "'down': it is left out from now on: ConnectionError('the service is down')" in caplog.text
    )
    costs = {"cost/seconds": 1.0, "cost/refused": 0}
    assert [found for kind, found in Noting.events if kind == "log"] == [(0, costs), (1, costs)]


def test_an_unknown_tracker_is_refused_before_anything_is_written(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    done = run(tmp_path / "run", av_digits_dir, "tensorbord")
    assert (done.exit_code, "track = 'tensorbord': not one of" in done.stderr) == (1, True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_the_rounds(tmp_path: Path, av_digits_dir: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = run(tmp_path / "run", av_digits_dir, "tensorboard")
    assert done.exit_code == 0, done.output
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    fused = [(event.step, event.value) for event in found.Scalars("accuracy/fused")]
    records = read_metrics(tmp_path / "run")
    assert fused == [
        (record["round"], pytest.approx(record["accuracy"]["fused"])) for record in records
    ]
    assert "accuracy" in found.Tags()["images"]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_the_local_store_of_mlflow_is_read_back(tmp_path: Path, av_digits_dir: Path) -> None:
    from mlflow.tracking import MlflowClient

    done = run(tmp_path / "run", av_digits_dir, "mlflow")
    assert done.exit_code == 0, done.output
    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedcmi")
    (found,) = client.search_runs(
        [experiment.experiment_id], f"tags.fedcmi = '{identity(tmp_path / 'run')}'"
    )
    history = client.get_metric_history(found.info.run_id, "accuracy/fused")
    records = read_metrics(tmp_path / "run")
    assert [(m.step, m.value) for m in history] == [
        (r["round"], r["accuracy"]["fused"]) for r in records
    ]
    assert found.data.params["method"] == "fedcmi-plus"
    assert {"model.safetensors", "accuracy.png"} <= {
        each.path for each in client.list_artifacts(found.info.run_id)
    }


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs the extra wandb")
def test_weights_and_biases_stays_offline(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    done = run(tmp_path / "run", av_digits_dir, "wandb")
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "run" / "wandb").glob(
        f"offline-run-*/run-{identity(tmp_path / 'run')}.wandb"
    )
    assert file.stat().st_size > 1000
