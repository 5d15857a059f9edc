"""Each family of ``auto:`` in two federated rounds: trained fully, frozen, and by LoRA.

Fully trained, it predicts from its file and its ONNX graph alike.
"""

from pathlib import Path
from typing import Any

import families
import federated
import kinds
import numpy as np
import pytest
import torch

from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.inference.export import export_model
from fedcmi_flwr.inference.predictor import Predictor

NO_LINEAR_ATTENTION = ("resnet", "convnext")
"""Convolutional networks, of which only named layers could get adapters."""


@pytest.fixture(params=families.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def two_rounds(
    tmp_path: Path, family: str, **options: Any
) -> tuple[federated.Federated, str, dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Run them on a node with both modalities and one with each, beside a vector.

    Return the federation, the prefix of the trunk's arrays, and what there was before the rounds:
    the arrays that travel and the trunk.
    """
    model = families.save(tmp_path / "model", family)
    modality = families.family(family).modality
    data = kinds.prepare(tmp_path / "data", modality, kinds.VECTOR, absent={2: "lab"})
    chosen = {key: value.format(modality.name) for key, value in options.items()}
    run = federated.federate(
        tmp_path / "run",
        data,
        [f"{modality.name}+lab", modality.name, "lab"],
        encoder=f"{modality.name}=auto:{model} lab=mlp",
        method="fedcmi-plus",
        warmup=0,
        lr=0.1,
        **chosen,
    )
    before = dict(run.arrays)
    trunk = {
        name: value.clone()
        for name, value in run.federation.model.branch(modality.name)
        .encoder.trunk.state_dict()
        .items()
    }
    for server_round in (1, 2):
        run.round(server_round)
        assert run.strategy.report.refused == []
        assert run.strategy.report.owners[modality.name] == [0, 1]

    return run, f"branches.{modality.name}.encoder.trunk.", before, trunk


def moved(run: federated.Federated, before: dict[str, np.ndarray]) -> set[str]:
    """Return the arrays that are not what they were."""
    assert before.keys() == run.arrays.keys()
    return {name for name in before if not np.array_equal(before[name], run.arrays[name])}


def test_trained_fully(tmp_path: Path, family: str) -> None:
    run, prefix, before, trunk = two_rounds(tmp_path, family)
    changed = {name.removeprefix(prefix) for name in moved(run, before) if name.startswith(prefix)}
    assert len(changed) > len(trunk) / 3
    assert all(np.isfinite(array).all() for array in run.arrays.values())

    run.evaluate(2)
    file = run.federation.directory.model_path
    names = run.federation.spec.modalities
    test = load_split(tmp_path / "data", "test", names)
    whole = np.flatnonzero(test.has[test.rows].all(axis=1))
    stored = {name: np.asarray(test.arrays[name])[test.rows[whole]] for name in names}
    (graph, _) = export_model(file, tmp_path / "onnx", "onnx", [list(names)])
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], stored)
    assert np.abs(found - Predictor.load(file, "cpu").predict_proba(stored)).max() < 1e-4


def test_frozen_trunks_neither_move_nor_travel(tmp_path: Path, family: str) -> None:
    run, prefix, before, _ = two_rounds(tmp_path, family, freeze="{}")
    assert not [name for name in run.arrays if name.startswith(prefix)]
    assert any(name.startswith(prefix.replace("trunk", "output")) for name in moved(run, before))


def test_lora_moves_adapters_alone(tmp_path: Path, family: str) -> None:
    if family in NO_LINEAR_ATTENTION:
        with pytest.raises(ValueError, match=r"adapter: .* has no linear layers"):
            two_rounds(tmp_path, family, adapter="{}=lora:r=2")
        return

    run, prefix, before, trunk = two_rounds(tmp_path, family, adapter="{}=lora:r=2")
    sent = [name for name in run.arrays if name.startswith(prefix)]
    assert sent
    assert all("lora_" in name for name in sent)
    assert any("lora_B" in name for name in moved(run, before) if name.startswith(prefix))

    after = run.federation.model.branch(prefix.split(".")[1]).encoder.trunk.state_dict()
    assert all(torch.equal(trunk[name], after[name]) for name in trunk if "lora_" not in name)
