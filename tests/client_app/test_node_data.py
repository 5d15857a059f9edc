"""A device's own data against the federation's description, and data that is too little to train on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from federated import federate
from safetensors.numpy import load_file

from client_app.app import app
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.nodes import RoundFailedError
from server_app.app import run
from server_app.launch import start as launch

Description = dict[str, Any]


def _classes(spec: Description) -> None:
    spec["classes"].reverse()


def _kind(spec: Description) -> None:
    spec["modalities"][0]["kind"] = "image"


def _mean(spec: Description) -> None:
    spec["modalities"][0]["mean"] = 100.0


def _federate(out: Path, server: Path, devices: list[Path], **changes: Any) -> Path:  # noqa: ANN401
    """Run one round of nodes that own their directories, the server's data in ``server``."""
    options = {"data": str(server), "num-server-rounds": 1, "fraction-train": 1.0, "min-available-nodes": len(devices)}
    raw = launch.resolve(None, {**options, **changes}, [])
    raw["run-dir"] = str(out)
    nodes = [
        {"partition-id": part, "modalities": "audio+visual", "data": str(path)} for part, path in enumerate(devices)
    ]
    run(launch.read_run_config(raw), LocalGrid(app, nodes, raw))
    return out


@pytest.fixture
def device(tmp_path: Path, av_digits_dir: Path) -> Callable[..., Path]:
    """Return a maker of copies of av-digits with another description."""

    def make(name: str, change: Callable[[Description], None] | None = None) -> Path:
        path = tmp_path / name
        path.mkdir()
        for split in read_spec(av_digits_dir).splits:
            (path / split).symlink_to(av_digits_dir / split)
        spec = json.loads((av_digits_dir / "dataset.json").read_text())
        if change is not None:
            change(spec)
        (path / "dataset.json").write_text(json.dumps(spec))
        return path

    return make


@pytest.mark.parametrize(("change", "words"), [(_classes, r"classes \['9'"), (_kind, "this node has image samples")])
def test_a_device_with_other_data_is_refused(
    tmp_path: Path,
    av_digits_dir: Path,
    device: Callable[..., Path],
    change: Callable[[Description], None],
    words: str,
) -> None:
    out = _federate(tmp_path / "run", av_digits_dir, [av_digits_dir, device("other", change)])
    refused = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])["refused"]
    assert len(refused) == 1
    assert refused[0].startswith("Reply of node 1002 (partition 1, audio+visual) refused: error 2")
    assert words.replace("\\", "") in refused[0]


def test_the_federations_normalisation_counts(tmp_path: Path, av_digits_dir: Path, device: Callable[..., Path]) -> None:
    """A device whose own mean is far off trains the same weights as one with the federation's."""
    runs = [
        _federate(tmp_path / name, av_digits_dir, [av_digits_dir, device(f"device-{name}", change)])
        for name, change in (("a", None), ("b", _mean))
    ]
    first, second = (load_file(path / "model.safetensors") for path in runs)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_device_with_too_little_data_is_found_by_the_query(tmp_path: Path) -> None:
    def made(name: str, count: int) -> Path:
        return oracle.prepare(tmp_path / name, dict.fromkeys(("audio", "visual"), np.ones(count, dtype=bool)))

    enough, small = made("enough", 60), made("small", 9)
    with pytest.raises(RoundFailedError, match=r"1 of 2 connected nodes.*9 training samples.*min-partition-size = 10"):
        _federate(tmp_path / "run", enough, [enough, small])


def test_a_modality_without_a_sample_is_not_owned(tmp_path: Path) -> None:
    """Partition 1 says audio and visual, but no sample of it has audio: it must not pull the audio branch back."""
    present = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole = oracle.prepare(tmp_path / "whole", present)
    deaf = oracle.prepare(tmp_path / "deaf", {**present, "audio": np.zeros(60, dtype=bool)}, test_present=present)
    out = _federate(tmp_path / "run", whole, [whole, deaf])
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])
    assert record["known_nodes"] == {"0": ["audio", "visual"], "1": ["visual"]}
    assert record["owners"] == {"audio": [0], "visual": [0, 1], "shared": [0, 1]}


def test_a_device_whose_modalities_change_is_asked_again(tmp_path: Path) -> None:
    """Its camera breaks after round 1, and its data is prepared again: it misses round 2 and then trains audio."""
    both = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole, device = (oracle.prepare(tmp_path / name, both) for name in ("whole", "device"))
    blind = oracle.prepare(tmp_path / "blind", {**both, "visual": np.zeros(60, dtype=bool)}, test_present=both)
    federated = federate(tmp_path / "run", whole, ["audio+visual"] * 2)
    for context, data in zip(federated.grid.contexts.values(), (whole, device), strict=True):
        del context.node_config["num-partitions"]
        context.node_config["data"] = str(data)
    federated.round(1)
    shutil.rmtree(device)
    blind.rename(device)
    federated.round(2)
    (line,) = federated.strategy.report.refused
    assert "now has samples of ['audio'], but said ['audio', 'visual']" in line
    federated.round(3)
    assert federated.strategy.report.refused == []
    assert federated.strategy.report.owners == {"audio": [0, 1], "visual": [0], "shared": [0, 1]}


def test_a_device_whose_data_is_gone_is_back_when_the_data_is(tmp_path: Path) -> None:
    """It fails in round 2, cannot be used in round 3, where it is asked, and trains when it is asked in round 4."""
    both = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole, device = (oracle.prepare(tmp_path / name, both) for name in ("whole", "device"))
    federated = federate(tmp_path / "run", whole, ["audio+visual"] * 2)
    federated.grid.contexts[1002].node_config["data"] = str(device)
    federated.round(1)
    device.rename(tmp_path / "away")
    federated.round(2)
    (line,) = federated.strategy.report.refused
    assert "node 1002" in line
    assert str(device) in line
    federated.round(3)
    assert list(federated.strategy.report.plan.sent) == [1001]
    assert str(device) in federated.strategy.nodes.unusable[1002].reason
    (tmp_path / "away").rename(device)
    federated.round(4)
    assert federated.strategy.report.owners["audio"] == [0, 1]
    assert federated.strategy.nodes.unusable == {}
