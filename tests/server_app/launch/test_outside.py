"""A method and an encoder of another package.

Trained on Ray and in process, predicted with, and missed.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import outside
import pytest
from safetensors.numpy import load_file

from client_app.app import app as client_app
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.wire import query_message
from server_app.launch.outside import import_roots
from server_app.launch.start import combine
from server_app.pyproject import default_run_config

ROOT = Path(__file__).parents[3]
FEDCMI = Path(sys.executable).parent / "fedcmi"
BY_PATH = (
    "my_package.focal:Focal",
    "my_package.patches:PatchEncoder",
    "{focusing = 1.5, mu = 0.1}",
)
BY_NAME = ("focal", "audio=patches visual=patches", "focusing=1.5 mu=0.1")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where my_package is installed."""
    return outside.install(tmp_path_factory.mktemp("package"))


def fedcmi(site: Path | None, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site) if site else ""}
    command = [str(FEDCMI), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def run_arguments(
    data: Path, run_dir: Path, method: str, encoder: str, options: str
) -> list[str | Path]:
    named = [
        "--method",
        method,
        "--set",
        f"encoder={encoder}",
        "--set",
        f"method-options={options}",
    ]
    small = [
        "--num-nodes",
        "4",
        "--rounds",
        "2",
        "--set",
        "local-epochs=1",
        "--set",
        "wait-timeout=400",
    ]
    return ["run", "--data", data, "--run-dir", run_dir, *named, *small]


def test_ray_and_in_process_give_the_same_weights(
    site: Path, av_digits_dir: Path, tmp_path: Path
) -> None:
    """By import paths on Ray, by the entry points' names in process.

    Then the model is used, with and without it.
    """
    for engine, named in (("flower", BY_PATH), ("in-process", BY_NAME)):
        done = fedcmi(
            site, *run_arguments(av_digits_dir, tmp_path / engine, *named), "--engine", engine
        )
        assert done.returncode == 0, done.stdout + done.stderr
    ray, local = (
        load_file(tmp_path / engine / "model.safetensors") for engine in ("flower", "in-process")
    )
    assert ray.keys() == local.keys()
    assert all(np.array_equal(ray[name], local[name]) for name in ray)
    assert "branches.audio.encoder.trunk.0.weight" in ray
    config = json.loads((tmp_path / "flower" / "config.json").read_text(encoding="utf-8"))
    assert (config["focusing"], config["mu"]) == (1.5, 0.1)
    assert "| focusing | 1.5 |" in (tmp_path / "flower" / "MODEL_CARD.md").read_text(
        encoding="utf-8"
    )
    predict = ["predict", tmp_path / "flower", "--data", av_digits_dir]
    assert fedcmi(site, *predict).returncode == 0
    without = fedcmi(None, *predict)
    assert without.returncode == 1
    assert (
        "this model was trained with my-package 0.1.0; install that here"
        in without.stderr.replace("\n", " ")
    )


def test_a_node_without_the_package_says_so(
    site: Path, av_digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": str(av_digits_dir), "method": "my_package.focal:Focal"}
    with monkeypatch.context() as patch:
        patch.syspath_prepend(site)
        raw = combine([], options, [])
    outside.forget()
    grid = LocalGrid(client_app, [{"partition-id": 0, "num-partitions": 2}], raw)
    (reply,) = grid.send_and_receive([query_message(next(iter(grid.get_node_ids())), 1)])
    assert "there is no module 'my_package' here. Install its package" in reply.error.reason


@pytest.mark.parametrize("room", ["methods", "models"])
def test_the_commands_of_the_rooms_are_runs(
    site: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    """Each as it stands in the room's README, put together and checked.

    The runs above are such runs.
    """
    monkeypatch.syspath_prepend(site)
    text = (ROOT / "fedcmi_flwr" / room / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (block,) = (block for block in blocks if block.startswith("pip install"))
    first, *runs = (shlex.split(line) for line in block.splitlines())
    assert first == ["pip", "install", "./my_package"]

    for program, command, *arguments in runs:
        assert (program, command) == ("fedcmi", "run")
        names, values = arguments[::2], arguments[1::2]
        methods = [value for name, value in zip(names, values, strict=True) if name == "--method"]
        assignments = [value for name, value in zip(names, values, strict=True) if name == "--set"]
        raw = combine([], {"method": methods[0] if methods else None}, assignments)
        assert import_roots(read_run_config(raw)) == [str(site)]
    outside.forget()


def test_what_is_not_installed_is_handed_on(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of the package, once; nothing for what is built in or installed."""
    monkeypatch.syspath_prepend(site)
    chosen = {"method": "focal", "encoder": "patches", "fusion": "torch.nn:Linear"}
    assert import_roots(read_run_config({**default_run_config(), **chosen})) == [str(site)]
    assert import_roots(read_run_config(default_run_config())) == []
    outside.forget()
