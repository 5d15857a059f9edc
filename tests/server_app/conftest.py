"""Small finished runs and a small finished bench to make reports of.

Tests that change one copy it.
"""

import shutil
from pathlib import Path
from typing import Any

import commands
import pytest

from client_app.app import app as client_app
from server_app.launch.start import resolve, run_in_process
from server_app.pages.report import write_report

LIGHT = {"num-server-rounds": 3, "local-epochs": 1, "multimodal-ratio": 0.5, "fraction-train": 0.34}


def _run(directory: Path, data: Path, **changes: Any) -> Path:
    raw = resolve(None, {**LIGHT, "data": str(data), **changes}, [f"run-dir={directory}"])
    return run_in_process(raw, 6, client_app, lambda line: None)


@pytest.fixture(scope="session")
def plus_run(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    """Return a run of FedCMI+ with 6 nodes, of which 2 are sampled in a round and all evaluate
    after the last two.
    """
    evaluation = {
        "fraction-evaluate": 1.0,
        "evaluate-from": 2,
        "node-test": "own-distribution",
        "personal-epochs": 1,
    }
    return _run(tmp_path_factory.mktemp("report") / "plus", av_digits_dir, **evaluation)


@pytest.fixture(scope="session")
def fedavg_run(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    """Return a run of a method without a teacher."""
    return _run(tmp_path_factory.mktemp("report") / "fedavg", av_digits_dir, method="fedavg")


@pytest.fixture(scope="session")
def bench_dir(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    """Return a bench of two methods and two seeds."""
    directory = tmp_path_factory.mktemp("report")
    recipe = directory / "small.toml"
    recipe.write_text("local-epochs = 1\nnum-server-rounds = 2\n")
    chosen = [
        "--methods",
        "fedavg,fedcmi-plus",
        "--seeds",
        "2",
        "--num-nodes",
        "4",
        "--data",
        av_digits_dir,
    ]
    done = commands.fedcmi("bench", recipe, "--out", directory / "bench", *chosen)
    assert done.exit_code == 0, done.output
    return directory / "bench"


@pytest.fixture(scope="session")
def plus_page(tmp_path_factory: pytest.TempPathFactory, plus_run: Path) -> Path:
    """Return the page of ``plus_run`` as it is; to draw its charts takes seconds."""
    return write_report(plus_run, tmp_path_factory.mktemp("pages") / "plus.html")


@pytest.fixture(scope="session")
def bench_page(tmp_path_factory: pytest.TempPathFactory, bench_dir: Path) -> Path:
    """Return the page of ``bench_dir`` as it is."""
    return write_report(bench_dir, tmp_path_factory.mktemp("pages") / "bench.html")


@pytest.fixture
def copy(tmp_path: Path, plus_run: Path) -> Path:
    """Return a copy of a run, to be changed."""
    return Path(shutil.copytree(plus_run, tmp_path / "copy"))


@pytest.fixture
def bench_copy(tmp_path: Path, bench_dir: Path) -> Path:
    """Return a copy of a bench, to be changed."""
    return Path(shutil.copytree(bench_dir, tmp_path / "bench"))
