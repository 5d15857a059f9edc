"""Tuning: the same budget for each row, never a look at the test split, and a file that a bench
reads.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import commands
import numpy as np
import pandas as pd
import pytest

from fedcmi_flwr import methods
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.schema import labels_path
from fedcmi_flwr.methods import METHODS, FedAvg
from server_app.bench import tuning
from server_app.bench.configs import (
    ROW_DIRECTORIES,
    RunConfigs,
    bench_configs,
    find_rows,
    find_settings,
    read_tuned,
    values_by_setting,
)
from server_app.bench.experiments import Experiment, plan
from server_app.bench.tuning import Candidate, Score, Tuning


@dataclass(frozen=True)
class Weighted(FedAvg):
    """FedProx with something to tune: its weight 1 and two others."""

    mu: float = 1.0
    tuning: ClassVar[tuple[str, tuple[float, ...]]] = ("mu", (0.1, 0.01, 1.0))


def _configs(*rows: str, data: Path | None = None, **changes: object) -> RunConfigs:
    assignments = [f"{key.replace('_', '-')}={value}" for key, value in changes.items()]
    options = {"data": str(data) if data else None, "validation-share": tuning.VALIDATION_SHARE}
    return bench_configs(
        values_by_setting(find_settings(["av-digits"])), find_rows(rows), {}, options, assignments
    )


@pytest.fixture
def with_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "fedprox", Weighted())


def _light(data: Path, **changes: object) -> RunConfigs:
    return _configs("fedavg", data=data, num_server_rounds=1, local_epochs=1, **changes)


@pytest.mark.usefixtures("with_weight")
def test_every_row_has_five_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are made up: the larger lr the better, then the smaller mu the better."""
    ran: list[str] = []

    def made_up(self: Tuning, candidates: list[Candidate]) -> list[Score]:
        ran.extend(candidate.name for candidate in candidates)
        values = [dict(candidate.values) for candidate in candidates]
        return [
            Score(candidate, float(value["lr"]) - float(value.get("mu", 0)) / 100, 0)
            for candidate, value in zip(candidates, values, strict=True)
        ]

    monkeypatch.setattr(Tuning, "_score", made_up)
    Tuning(_configs("fedavg", "fedprox"), 1, 4, 1, tmp_path, ran.append).run()
    assert ran == [
        *(f"fedavg@lr={lr}" for lr in (0.025, 0.05, 0.1, 0.2, 0.4)),
        *(f"fedprox@lr={lr}@mu=1.0" for lr in (0.05, 0.1, 0.2)),
        *(f"fedprox@lr=0.2@mu={mu}" for mu in (0.1, 0.01)),
    ]
    assert read_tuned(tmp_path / "tuned.toml") == {
        "fedavg": {"lr": 0.4},
        "fedprox": {"lr": 0.2, "mu": 0.01},
    }
    assert "# score 0.1999" in (tmp_path / "tuned.toml").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "tune.csv")
    assert len(table) == 10
    assert table[table["chosen"]]["configuration"].tolist() == ["lr=0.4", "lr=0.2 mu=0.01"]


def test_the_best_is_the_first_of_equals_and_has_not_diverged() -> None:
    scores = [
        Score(Candidate("a", (("lr", lr),)), accuracy, lost)
        for lr, accuracy, lost in ((0.1, 0.0, 1), (0.2, 0.0, 0), (0.3, 0.5, 0), (0.4, 0.5, 0))
    ]
    assert tuning.best(scores) == {"a": scores[2]}
    assert tuning.best(scores[:2]) == {"a": scores[1]}
    assert tuning.best(scores[:1]) == {}


def test_the_test_split_is_never_looked_at(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With garbage for test labels the scores are the same; a second call runs nothing."""
    monkeypatch.setattr(tuning, "MORE_LEARNING_RATES", (0.1,))
    garbled = tmp_path / "garbled"
    (garbled / "test").mkdir(parents=True)
    for path in (av_digits_dir / "test").iterdir():
        (garbled / "test" / path.name).symlink_to(path)
    for name in ("train", "dataset.json"):
        (garbled / name).symlink_to(av_digits_dir / name)
    labels = labels_path(garbled, "test")
    shuffled = np.random.default_rng(0).permutation(np.load(labels))
    labels.unlink()
    np.save(labels, shuffled)
    found = []
    for data in (av_digits_dir, garbled):
        out, lines = tmp_path / f"out-{data.name}", list[str]()
        made = Tuning(_light(data), 1, 4, 1, out, lines.append)
        found.append(made.run())
        assert made.run() == found[-1]
        assert lines[-2:] == [
            "1 of 1 runs are finished, 0 to do",
            "0 of 0 runs are finished, 0 to do",
        ]
    assert found[0] == found[1]
    assert 0 < found[0][0].accuracy < 1


def test_what_diverges_is_worst_and_said(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MORE_LEARNING_RATES", (1e9, 0.1))
    lines: list[str] = []
    wild, calm = Tuning(_light(av_digits_dir), 1, 4, 2, tmp_path, lines.append).run()
    assert (wild.accuracy, wild.diverged, calm.diverged) == (0.0, 1, 0)
    assert "fedavg@lr=1000000000.0: diverged in 1 of 1 runs; counts as worst" in lines
    assert read_tuned(tmp_path / "tuned.toml") == {"fedavg": {"lr": 0.1}}


def test_a_row_that_always_diverges_is_named(
    tmp_path: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MORE_LEARNING_RATES", (1e9,))
    with pytest.raises(tuning.TuningError, match="fedavg: diverged at every learning rate"):
        Tuning(_light(av_digits_dir), 1, 4, 1, tmp_path, lambda line: None).run()
    assert read_tuned(tmp_path / "tuned.toml") == {}


def test_another_failure_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_fail(experiments: list[Experiment], *others: object) -> list[Experiment]:
        return experiments

    monkeypatch.setattr(tuning, "run_all", all_fail)
    with pytest.raises(tuning.TuningError, match=r"failed: .*fedavg@lr=0\.025/seed0.*call again"):
        Tuning(_configs("fedavg"), 1, 4, 1, tmp_path, lambda line: None).run()
    assert not (tmp_path / "tuned.toml").exists()


def test_tuning_on_the_test_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="fedavg: validation-share = 0; tuning looks at a validation part"
    ):
        Tuning(_configs("fedavg", validation_share=0.0), 1, 4, 1, tmp_path, lambda line: None)


def test_every_row_of_the_project_gets_five_configurations() -> None:
    """Three learning rates and two other weights, which the method can be given.

    Or five learning rates.
    """
    for row, raw in _configs(*ROW_DIRECTORIES)["av-digits"].items():
        first = tuning.first_candidates(row, raw)
        others = tuning.other_weights(Score(first[0], 0.5, 0), raw)
        assert len({*first, *others}) == 5
        for candidate in others:
            key, value = candidate.values[1]
            methods.make_method(str(raw["method"]), {key: value})


def test_a_run_that_lost_a_diverged_node_counts_as_worst(tmp_path: Path) -> None:
    [experiment] = plan({"s": {"fedavg": {"method": "fedavg"}}}, 1, 4, tmp_path)
    experiment.run_dir.mkdir(parents=True)
    for refused, lost in (
        ([], False),
        (["Reply of node 3 refused: training diverged: loss term"], True),
    ):
        (experiment.run_dir / "metrics.jsonl").write_text(
            json.dumps({"round": 1, "refused": refused}) + "\n"
        )
        assert tuning.lost_nodes(experiment) is lost


def test_the_command_writes_what_a_bench_reads(tmp_path: Path, av_digits_dir: Path) -> None:
    small = ["--data", str(av_digits_dir), "--num-nodes", "4", "--methods", "fedavg"]
    small += ["--set", "num-server-rounds=1", "--set", "local-epochs=1"]
    done = commands.fedcmi("tune", "av-digits", "--out", tmp_path / "tune", *small)
    assert done.exit_code == 0, done.output
    tuned = tmp_path / "tune" / "tuned.toml"
    lr = read_tuned(tuned)["fedavg"]["lr"]
    assert lr in tuning.MORE_LEARNING_RATES
    bench = ["bench", "av-digits", "--out", tmp_path / "bench", "--tuned", tuned, "--seeds", "1"]
    done = commands.fedcmi(*bench, *small)
    assert done.exit_code == 0, done.output
    assert (
        f'"lr": {lr}'
        in (tmp_path / "bench" / "av-digits" / "fedavg" / "seed0" / "config.json").read_text()
    )
