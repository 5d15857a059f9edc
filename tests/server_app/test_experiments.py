"""A bench: what it runs, what it refuses, and the numbers of its table."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedcmi_flwr.config import ConfigError
from server_app import experiments, launch


def _recipe(directory: Path, text: str = "local-epochs = 1\n") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "small.toml"
    path.write_text(text)
    return path


def test_plan_goes_seed_by_seed(tmp_path: Path) -> None:
    planned = experiments.plan([_recipe(tmp_path)], ["fedavg", "fedcmi"], 2, tmp_path / "out")
    assert [(e.method, e.seed) for e in planned] == [("fedavg", 0), ("fedcmi", 0), ("fedavg", 1), ("fedcmi", 1)]
    assert planned[3].run_dir == tmp_path / "out" / "small" / "fedcmi" / "seed1"


def test_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different file names"):
        experiments.plan([_recipe(tmp_path / "a"), _recipe(tmp_path / "b")], ["fedavg"], 1, tmp_path / "out")


@pytest.mark.parametrize("text", ["method=fedavg", "seed=3", "run-dir=/tmp/x"])
def test_what_a_bench_decides_cannot_be_set(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="a bench decides method, seed, run-dir itself"):
        launch.bench_config(_recipe(tmp_path), {"method": "fedavg"}, [text])


def test_a_broken_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"small\.toml: "):
        launch.resolve(_recipe(tmp_path, "local-epochs 1"), {}, [])


def test_a_bench_directory_keeps_to_one_configuration(tmp_path: Path) -> None:
    config = {"small": launch.bench_config(_recipe(tmp_path), {"method": "fedavg"}, ["lr=0.1"])}
    experiments.claim(tmp_path / "out", ["--num-nodes", "4"], config)
    experiments.claim(tmp_path / "out", ["--num-nodes", "4"], config)
    with pytest.raises(ValueError, match="another configuration"):
        experiments.claim(tmp_path / "out", ["--num-nodes", "5"], config)
    other = {"small": launch.bench_config(_recipe(tmp_path), {"method": "fedcmi"}, ["lr=0.2"])}
    with pytest.raises(ValueError, match="another configuration"):
        experiments.claim(tmp_path / "out", ["--num-nodes", "4"], other)


@pytest.mark.parametrize(
    ("assignment", "words"), [("seed=3", "a bench decides method, seed, run-dir itself"), ("lr=0.1", "another config")]
)
def test_the_command_refuses_what_would_spoil_a_table(tmp_path: Path, assignment: str, words: str) -> None:
    """The directory is claimed for a configuration without the assignment."""
    recipe, out = _recipe(tmp_path), tmp_path / "out"
    config = {"small": launch.bench_config(recipe, {"method": "fedavg"}, [])}
    experiments.claim(out, ["--num-nodes", "10"], config)
    command = [sys.executable, "-m", "fedcmi_flwr.cli", "bench", str(recipe), "--out", str(out), "--set", assignment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert [path.name for path in out.iterdir()] == ["bench.json"]


def test_a_finished_run_is_not_run_again_and_a_failed_one_is_named(tmp_path: Path, av_digits_dir: Path) -> None:
    """The first experiment is finished; the second cannot run, since its data are missing."""
    done, broken = experiments.plan([_recipe(tmp_path)], ["fedavg", "fedcmi"], 1, tmp_path / "out")
    done.run_dir.mkdir(parents=True)
    (done.run_dir / "summary.md").write_text("finished")
    lines: list[str] = []
    failed = experiments.run_all([done, broken], ["--data", str(tmp_path / "nowhere")], 2, lines.append)
    assert failed == [broken]
    assert lines[0] == "1 of 2 runs are finished, 1 to do"
    assert "small fedcmi seed 0: FAILED" in lines[1]
    assert (done.run_dir / "summary.md").read_text() == "finished"
    assert "no such directory" in (broken.run_dir / "log.txt").read_text()


def test_table_has_means_intervals_and_paired_differences() -> None:
    """t(0.975, 2 degrees of freedom) = 4.3027; of 10, 20, 30 the half-width is 4.3027 * 10 / sqrt(3) = 24.8.

    The differences to it are 1, 2, 3 points: mean 2, half-width 4.3027 / sqrt(3) = 2.5.
    """
    values = {"fedavg": (0.1, 0.2, 0.3), "fedcmi": (0.11, 0.22, 0.33)}
    rows = [("s", m, k, "fused", v, v) for m, seeds in values.items() for k, v in enumerate(seeds)]
    results = pd.DataFrame(rows, columns=["setting", "method", "seed", "prediction", "accuracy", "best"])
    text = experiments.table(results, ["fedavg", "fedcmi"], "fedavg")
    assert "### s (3 seeds)" in text
    assert "| fedavg | 20.0 ± 24.8 |" in text
    assert "| fedcmi | 22.0 ± 27.3 (+2.0 ± 2.5) |" in text


def test_collect_takes_the_last_rounds_and_the_best(tmp_path: Path) -> None:
    """Rounds 0..6 with accuracy 0.9, .1 ... .6: the last five are .2 to .6, mean .4; the best is round 0's."""
    [experiment] = experiments.plan([_recipe(tmp_path)], ["fedavg"], 1, tmp_path / "out")
    experiment.run_dir.mkdir(parents=True)
    (experiment.run_dir / "summary.md").write_text("finished")
    accuracies = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    lines = [json.dumps({"round": t, "accuracy": {"fused": value}}) for t, value in enumerate(accuracies)]
    (experiment.run_dir / "metrics.jsonl").write_text("\n".join(lines))
    [row] = experiments.collect([experiment]).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.4)
    assert row["best"] == 0.9
