"""The strategy in an app that uses nothing else of ours: no model, no run-config, no data code."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from fedcmi_flwr.simulation.local_grid import LocalGrid
from server_app.launch.flower_run import run_on_flower

EXAMPLE = Path(__file__).parents[2] / "example_app"


@pytest.fixture(scope="module")
def sensor_app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sensor_app", EXAMPLE / "sensor_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sensor_app"] = module
    spec.loader.exec_module(module)
    return module


def accuracy(sensor_app: ModuleType, weights: Path) -> dict[str, float]:
    """Return the accuracy of each sensor's own head on data of a node that never trained."""
    model = sensor_app.SensorNet()
    model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in np.load(weights).items()}
    )
    x, y = sensor_app.data_of(1000)
    return {
        name: float((model[f"{name}_own"](x[name]).argmax(1) == y).float().mean()) for name in x
    }


def test_example_app_trains_in_process(sensor_app: ModuleType, tmp_path: Path) -> None:
    run_config = {"rounds": 3, "output": str(tmp_path / "weights.npz")}
    grid = LocalGrid(sensor_app.client, [{"partition-id": part} for part in range(4)], run_config)
    context = Context(1, 1, {}, RecordDict(), run_config)
    sensor_app.server(grid=grid, context=context)
    found = accuracy(sensor_app, tmp_path / "weights.npz")
    assert found["gyro"] > 0.9
    assert found["acc"] > 0.6  # chance is 1/3


def test_example_app_runs_on_flower(sensor_app: ModuleType, tmp_path: Path) -> None:
    """The same app as Flower runs it, on Ray, from a bundle that holds its one file."""
    run_config = {"rounds": 3, "output": str(tmp_path / "ray.npz")}
    run_on_flower(EXAMPLE, run_config, num_nodes=4, num_gpus=0.0, while_running=lambda: None)
    assert accuracy(sensor_app, tmp_path / "ray.npz")["gyro"] > 0.9
