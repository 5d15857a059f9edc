"""From a raw archive with real media to two federated rounds of the paper's recipe, smaller in its
sizes only.
"""

from collections.abc import Callable
from pathlib import Path

import media
import numpy as np
import pytest
from safetensors.numpy import load_file

from client_app.app import app as client_app
from data_prep.sets import ave, cremad
from fedcmi_flwr.data.schema import read_spec
from server_app.launch.recipes import RECIPES
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics

SMALLER = {"num-server-rounds": 2, "lr-decay-start": 1, "local-epochs": 1, "batch-size": 8, "min-partition-size": 2,
           "embedding-dim": 16, "view-size": 32, "device": "cpu", "torch-threads": 2}  # fmt: skip


def write_small_ave(raw: Path) -> None:
    """Write an archive of 12 videos."""
    media.write_ave(raw, videos=4)


@pytest.mark.parametrize(
    ("name", "nodes", "write", "prepare"),
    [("cremad", 8, media.write_cremad, cremad.prepare), ("ave", 3, write_small_ave, ave.prepare)],
)
def test_two_rounds_of_the_recipe(
    tmp_path: Path,
    name: str,
    nodes: int,
    write: Callable[[Path], object],
    prepare: Callable[..., Path],
) -> None:
    write(tmp_path / "raw")
    data = prepare(tmp_path / "raw", tmp_path / "data", frame_size=40)
    options = {**SMALLER, "data": str(data), "run-dir": str(tmp_path / "run")}
    raw = resolve(RECIPES / f"{name}.toml", options, [])
    assert (raw["encoder"], raw["augment"]) == ("resnet18", "visual")
    run_in_process(raw, nodes, client_app, lambda line: None)
    records = read_metrics(tmp_path / "run")
    assert [record["round"] for record in records] == [0, 1, 2]
    assert [record["refused"] for record in records[1:]] == [[], []]
    assert {"fused", "kd"} <= records[2]["losses"].keys()
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert all(np.isfinite(value).all() for value in model.values())
    assert read_spec(data).splits["test"] == sum(records[2]["counts"]["fused"]["count"])
