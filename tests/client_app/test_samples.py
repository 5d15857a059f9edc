"""A node's samples.

Its part of a split, a device's own data against the federation's, and data that is too little.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from digits import Parts, node_configs, node_of
from federated import federate as federate_small
from flwr.app import ConfigRecord
from safetensors.numpy import load_file

from client_app.app import app
from client_app.samples import node_samples
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


def _federate(out: Path, server: Path, devices: list[Path], **changes: Any) -> Path:
    """Run one round of nodes that own their directories, the server's data in ``server``."""
    options = {
        "data": str(server),
        "num-server-rounds": 1,
        "fraction-train": 1.0,
        "min-available-nodes": len(devices),
    }
    raw = launch.resolve(None, {**options, **changes}, [])
    raw["run-dir"] = str(out)
    nodes = [
        {"partition-id": part, "modalities": "audio+visual", "data": str(path)}
        for part, path in enumerate(devices)
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


@pytest.mark.parametrize(
    ("change", "words"), [(_classes, r"classes \['9'"), (_kind, "this node has image samples")]
)
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


def test_the_federations_normalisation_counts(
    tmp_path: Path, av_digits_dir: Path, device: Callable[..., Path]
) -> None:
    """A device whose own mean is far off trains the same weights as one with the federation's."""
    runs = [
        _federate(tmp_path / name, av_digits_dir, [av_digits_dir, device(f"device-{name}", change)])
        for name, change in (("a", None), ("b", _mean))
    ]
    first, second = (load_file(path / "model.safetensors") for path in runs)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_device_with_too_little_data_is_found_by_the_query(tmp_path: Path) -> None:
    def made(name: str, count: int) -> Path:
        return oracle.prepare(
            tmp_path / name, dict.fromkeys(("audio", "visual"), np.ones(count, dtype=bool))
        )

    enough, small = made("enough", 60), made("small", 9)
    with pytest.raises(
        RoundFailedError,
        match=r"1 of 2 connected nodes.*9 training samples.*min-partition-size = 10",
    ):
        _federate(tmp_path / "run", enough, [enough, small])


def test_a_device_that_only_evaluates_says_which_of_its_samples_is_no_number(
    tmp_path: Path,
) -> None:
    """Else the model would be counted as wrong about it."""
    present = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole, damaged = (oracle.prepare(tmp_path / name, present) for name in ("whole", "damaged"))
    path = damaged / "test" / "visual.npy"
    values = np.load(path)
    values[7, 0, 3, 3] = np.nan
    np.save(path, values)

    out = _federate(tmp_path / "run", whole, [whole, damaged], **{"fraction-evaluate": 1.0})
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])
    assert len(record["refused"]) == 1
    assert record["refused"][0].startswith(
        "Evaluation of node 1002 (partition 1, audio+visual) refused"
    )
    place = "visual of sample 7 of the test split (row 9 of samples.csv, of 'g2')"
    assert f"{place} holds NaN or Inf" in record["refused"][0]
    assert set(record["evaluated_by"]) == {"0"}


def test_a_modality_without_a_sample_is_not_owned(tmp_path: Path) -> None:
    """Partition 1 says audio and visual, but no sample of it has audio.

    It must not pull the audio branch back.
    """
    present = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole = oracle.prepare(tmp_path / "whole", present)
    deaf = oracle.prepare(
        tmp_path / "deaf", {**present, "audio": np.zeros(60, dtype=bool)}, test_present=present
    )
    out = _federate(tmp_path / "run", whole, [whole, deaf])
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])
    assert record["known_nodes"] == {"0": ["audio", "visual"], "1": ["visual"]}
    assert record["owners"] == {"audio": [0], "visual": [0, 1], "shared": [0, 1]}


def test_a_device_whose_modalities_change_is_asked_again(tmp_path: Path) -> None:
    """Its camera breaks after round 1, and its data is prepared again.

    It misses round 2 and then trains audio.
    """
    both = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole, device = (oracle.prepare(tmp_path / name, both) for name in ("whole", "device"))
    blind = oracle.prepare(
        tmp_path / "blind", {**both, "visual": np.zeros(60, dtype=bool)}, test_present=both
    )
    federated = federate_small(tmp_path / "run", whole, ["audio+visual"] * 2)
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


def test_nodes_share_the_test_split_out(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(
        [{"partition-id": part, "num-partitions": 3} for part in range(3)], fraction_evaluate=1.0
    )
    strategy = federation.strategy
    messages = list(
        strategy.configure_evaluate(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    replies = list(grid.send_and_receive(messages))
    assert [sum(reply.content["metrics"]["count.fused"]) for reply in replies] == [167, 167, 166]
    metrics = strategy.aggregate_evaluate(1, replies)
    central = federation.evaluate(0, arrays)
    assert metrics is not None
    assert dict(metrics) == pytest.approx(dict(central))


def test_nodes_evaluate_on_samples_of_their_own_class_shares(
    federate: Callable[..., Parts],
) -> None:
    """The counts are those of the training samples, scaled so that one class gives all of its test
    samples.
    """
    nodes = [{"partition-id": part, "num-partitions": 3} for part in range(3)]
    federation, grid, arrays = federate(
        nodes,
        fraction_evaluate=1.0,
        node_test="own-distribution",
        partition="dirichlet",
        dirichlet_alpha=0.3,
    )
    messages = list(
        federation.strategy.configure_evaluate(
            1, arrays, ConfigRecord(federation.task_config()), grid
        )
    )
    every = np.bincount(federation.test_samples.labels, minlength=10)
    for node, reply in zip(nodes, grid.send_and_receive(messages), strict=True):
        own = node_samples(node_of(dict(federation.config.raw), node), "train", ("audio", "visual"))
        trained = np.bincount(own.labels[own.rows], minlength=10)
        scale = min(every[trained > 0] / trained[trained > 0])
        assert reply.content["metrics"]["count.fused"] == [
            round(value) for value in scale * trained
        ]


def test_a_device_with_data_of_its_own_trains_on_all_of_it(
    federate: Callable[..., Parts], av_digits_dir: Path
) -> None:
    node = {"partition-id": 3, "modalities": "visual", "data": str(av_digits_dir)}
    federation, _, _ = federate(node_configs("audio"))
    alone = node_of({**federation.config.raw, "data": "/nowhere"}, node)
    assert alone.modalities == ("visual",)
    assert [len(node_samples(alone, split, alone.modalities)) for split in ("train", "test")] == [
        1200,
        500,
    ]
