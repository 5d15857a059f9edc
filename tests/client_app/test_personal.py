"""Heads of a node's own.

What is trained, that nothing of it leaves the node, and what the node says of it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from commands import fedcmi
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

from client_app.app import app as client_app
from client_app.node import Node
from client_app.personal import personalise
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.node import read_node_config
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.inference import Predictor
from server_app.launch import start as launch
from server_app.run.directory import read_metrics

SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=2, batch_size=12, lr=0.05, lr_min=0.0, lr_decay_start=1,
    momentum=0.9, weight_decay=0.0,
)  # fmt: skip
BOTH = ("audio", "visual")


@pytest.mark.parametrize("structure", ["two-projectors", "fusion", "unimodal"])
def test_one_full_batch_is_one_step_of_the_heads_alone(structure: str) -> None:
    """W - lr grad(CE(F) + sum_m CE(H_m)), at the full learning rate although it has decayed in
    round 4.
    """
    samples, model = oracle.samples(12), oracle.model(structure=structure).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference = oracle.model(structure=structure).float().eval()
    output, batch = reference(next(samples.batches(12, BOTH))), next(samples.batches(12, BOTH))
    loss = cross_entropy(output.fused_logits, batch.labels)
    for logits in output.self_logits.values():
        loss = loss + cross_entropy(logits, batch.labels)
    loss.backward()
    gradients = {
        name: value.grad for name, value in reference.named_parameters() if value.grad is not None
    }
    personal = personalise(model, samples, SETTINGS, 1, 4, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    heads = {name for name in before if ".classifier." in name or name.startswith("fusion.")}
    assert heads
    for name, value in personal.state_dict().items():
        expected = before[name] - 0.05 * gradients[name] if name in heads else before[name]
        assert torch.allclose(value, expected, atol=1e-6), name
        assert name in heads or torch.equal(value, before[name]), name


def test_seed_round_and_partition_decide_the_order_of_the_samples() -> None:
    def found(server_round: int, partition: int, seed: int = 3) -> torch.Tensor:
        model = oracle.model().float()
        settings = replace(SETTINGS, batch_size=4, seed=seed)
        personal = personalise(model, oracle.samples(12), settings, 2, server_round, partition)
        return personal.state_dict()["fusion.output.weight"]

    assert torch.equal(found(1, 0), found(1, 0))
    assert not any(
        torch.equal(found(1, 0), other) for other in (found(2, 0), found(1, 1), found(1, 0, seed=4))
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a toy data set."""
    present = {name: np.ones(60, dtype=bool) for name in BOTH}
    return oracle.prepare(tmp_path_factory.mktemp("personal") / "toy", present)


def _run(directory: Path, data: Path, **changes: Any) -> Path:
    keys = {"num-server-rounds": 3, "local-epochs": 1, "batch-size": 4, "embedding-dim": 4, "multimodal-ratio": 0.5,
            "min-partition-size": 2, "device": "cpu", "fraction-evaluate": 1.0, "dirichlet-alpha": 0.3}  # fmt: skip
    raw = launch.resolve(
        None, {**keys, "data": str(data), "run-dir": str(directory), **changes}, []
    )
    return launch.run_in_process(raw, 4, client_app, lambda line: None, plots=False)


@pytest.mark.parametrize(
    ("method", "ratio"), [("fedcmi-plus", 0.5), ("fedcmi-plus", 1.0), ("scaffold", 0.5)]
)
def test_a_run_is_the_same_to_the_bit_with_and_without(
    tmp_path: Path, toy: Path, method: str, ratio: float
) -> None:
    """Weights, and every record but for what nodes say of heads of their own.

    With ratio 1 all use one model object.
    """
    keys = {"method": method, "multimodal-ratio": ratio}
    without = _run(tmp_path / "without", toy, **keys)
    beside = _run(tmp_path / "beside", toy, **keys, **{"personal-epochs": 2})
    left, right = (load_file(path / "model.safetensors") for path in (without, beside))
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)
    told = 0
    for old, new in zip(*(read_metrics(path) for path in (without, beside)), strict=True):
        told += sum(
            name.startswith("personal ") for names in new["evaluated_by"].values() for name in names
        )
        new["evaluated_by"] = {
            node: {name: value for name, value in found.items() if not name.startswith("personal ")}
            for node, found in new["evaluated_by"].items()
        }
        new["evaluated_on_nodes"] = {
            k: v for k, v in new["evaluated_on_nodes"].items() if not k.startswith("personal")
        }
        assert json.dumps(oracle.untimed(old)) == json.dumps(oracle.untimed(new))
    assert told >= 3 * 4


def test_nodes_evaluate_what_the_server_evaluates(tmp_path: Path, toy: Path) -> None:
    """Nodes have each test sample once between them, and get the averaged weights.

    Their counts add up to its.
    """
    path = _run(
        tmp_path / "run", toy, **{"averaging": 0.7, "evaluate-from": 2, "multimodal-ratio": 1.0}
    )
    zero, first, *others = read_metrics(path)
    assert (zero["evaluated_by"], first["evaluated_by"]) == ({}, {})
    for record in others:
        assert list(record["evaluated_by"]) == ["0", "1", "2", "3"]
        assert record["evaluated_on_nodes"]["fused"] == record["counts"]["fused"]
        samples = [found["fused"]["samples"] for found in record["evaluated_by"].values()]
        right = [
            found["fused"]["samples"] * found["fused"]["accuracy"]
            for found in record["evaluated_by"].values()
        ]
        assert (sum(samples), sum(right)) == (
            60,
            pytest.approx(sum(record["counts"]["fused"]["correct"])),
        )


def test_nobody_has_heads_of_its_own_where_nobody_evaluates() -> None:
    with pytest.raises(
        ConfigError, match="personal-epochs: nobody evaluates, since fraction-evaluate is 0"
    ):
        launch.resolve(None, {"personal-epochs": 1}, [])


def test_a_node_keeps_its_own_model_and_it_predicts(tmp_path: Path, toy: Path) -> None:
    """The file of each node has the accuracy on the node's test samples that the node said of its
    own heads.
    """
    run = _run(tmp_path / "run", toy, **{"personal-epochs": 2, "personal-models": "keep"})
    said = read_metrics(run)[-1]["evaluated_by"]
    shared = load_file(run / "model.safetensors")
    test = load_split(toy, "test", BOTH)
    for node, found in said.items():
        file = run / "personal" / f"partition-{node}"
        predictor = Predictor.load(file)
        own = test.rows[int(node) :: 4]
        inputs = {name: test.arrays[name][own] for name in predictor.modalities}
        right = predictor.predict(inputs) == test.labels[own]
        assert right.mean() == pytest.approx(found["personal fused"]["accuracy"])

        arrays = load_file(file / "model.safetensors")
        moved = {name for name, value in arrays.items() if not np.array_equal(value, shared[name])}
        assert moved
        assert all(".classifier." in name or name.startswith("fusion.") for name in moved)
    owners = {
        node: Predictor.load(run / "personal" / f"partition-{node}").modalities for node in said
    }
    assert {len(names) for names in owners.values()} == {1, 2}
    done = fedcmi(
        "predict",
        run / "personal" / "partition-0",
        "--data",
        toy,
        "--modalities",
        "+".join(owners["0"]),
    )
    assert done.exit_code == 0, done.output


def test_a_device_that_was_not_told_where_says_so(tmp_path: Path, toy: Path) -> None:
    raw = {
        "personal-epochs": 1,
        "personal-models": "keep",
        "fraction-evaluate": 1.0,
        "run-dir": str(tmp_path),
    }
    run = launch.read_run_config(launch.resolve(None, {**raw, "data": str(toy)}, []))
    device = {"partition-id": 3, "modalities": "audio"}
    with pytest.raises(ConfigError, match="this device does not know where; set `personal`"):
        _ = Node(run, read_node_config(device), toy, read_spec(toy), ()).personal_directory
    told = Node(run, read_node_config({**device, "personal": "/own"}), toy, read_spec(toy), ())
    assert told.personal_directory == Path("/own")


def test_nothing_is_kept_where_nothing_is_trained() -> None:
    with pytest.raises(
        ConfigError, match="personal-models = 'keep': no node trains heads of its own"
    ):
        launch.resolve(None, {"personal-models": "keep"}, [])
