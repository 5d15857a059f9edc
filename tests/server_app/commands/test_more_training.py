"""Warm starts and more rounds, by the command line."""

from pathlib import Path

import numpy as np
import pytest
from commands import fedcmi
from safetensors.numpy import load_file

from server_app.run.directory import read_metrics

QUICK = ["--engine", "in-process", "--num-nodes", "2", "--set", "local-epochs=1"]


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    directory = tmp_path_factory.mktemp("more") / "run"
    done = fedcmi(
        "run",
        *QUICK,
        "--rounds",
        "2",
        "--method",
        "scaffold",
        "--data",
        av_digits_dir,
        "--run-dir",
        directory,
    )
    assert done.exit_code == 0, done.output
    return directory


def test_a_model_begins_with_the_weights_of_another(
    two_rounds: Path, av_digits_dir: Path, tmp_path: Path
) -> None:
    begin = ["run", *QUICK, "--rounds", "1", "--data", av_digits_dir]
    done = fedcmi(
        *begin, "--method", "scaffold", "--from", two_rounds, "--run-dir", tmp_path / "run"
    )
    assert done.exit_code == 0, done.output
    before, after = read_metrics(two_rounds)[-1], read_metrics(tmp_path / "run")[0]
    assert after["accuracy"] == before["accuracy"]

    missing = fedcmi(*begin, "--from", tmp_path / "none", "--run-dir", tmp_path / "new")
    assert (missing.exit_code, "not found; give a run directory" in missing.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


def test_a_finished_run_trained_on_is_one_that_was_longer(
    two_rounds: Path, av_digits_dir: Path, tmp_path: Path
) -> None:
    """SCAFFOLD's state on the nodes and on the server goes on too."""
    nothing = fedcmi("run", "--resume", two_rounds, "--rounds", "2")
    assert (nothing.exit_code, "More rounds can follow (--rounds above 2)" in nothing.stderr) == (
        1,
        True,
    )
    long = ["run", *QUICK, "--rounds", "3", "--method", "scaffold", "--data", av_digits_dir]
    for command in (
        ["run", "--resume", two_rounds, "--rounds", "3"],
        [*long, "--run-dir", tmp_path / "long"],
    ):
        done = fedcmi(*command)
        assert done.exit_code == 0, done.output
    found, expected = (
        load_file(path / "model.safetensors") for path in (two_rounds, tmp_path / "long")
    )
    assert {name for name in expected if not np.array_equal(found[name], expected[name])} == set()
    assert "3 rounds" in (two_rounds / "summary.md").read_text(encoding="utf-8").splitlines()[0]
