"""Checkpoints: what is loaded predicts what was saved, and nothing else is taken for one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedcmi_flwr.models.file import CheckpointError, load_model, save_model, to_bytes
from fedcmi_flwr.types import Batch
from fedcmi_flwr.wire.tensors import to_arrays

CLASSES = ("no", "yes", "maybe")


def _save(path: Path, seed: int = 0, **changes: object) -> torch.nn.Module:
    model = oracle.model(seed=seed, **changes).float()
    model(_batch())  # so that BatchNorm's buffers are not what they start from
    inputs = oracle.inputs("audio", "visual")
    save_model(
        path,
        to_arrays(model.state_dict()),
        model.spec,
        inputs,
        CLASSES,
        {"round": 3, "run-config": {"lr": 0.1}},
    )
    return model.eval()


def _batch() -> Batch:
    batch = oracle.batch([[1, 1], [1, 0], [0, 1], [1, 1]])
    return replace(batch, inputs={name: x.float() for name, x in batch.inputs.items()})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"structure": "fusion"},
        {"structure": "unimodal"},
        {"normalization": "group"},
        {"fusion": "gated", "projector": "mlp"},
    ],
)
def test_the_loaded_model_gives_equal_logits(tmp_path: Path, changes: dict[str, object]) -> None:
    saved = _save(tmp_path / "model.safetensors", **changes)
    loaded, metadata = load_model(tmp_path / "model.safetensors")
    assert not loaded.training
    assert loaded.spec == saved.spec
    assert torch.equal(loaded(_batch()).fused_logits, saved(_batch()).fused_logits)
    assert metadata["classes"] == list(CLASSES)
    assert metadata["notes"] == {"round": 3, "run-config": {"lr": 0.1}}


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    _save(tmp_path / "model.safetensors", seed=0)
    second = _save(tmp_path / "model.safetensors", seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(
        load_model(tmp_path / "model.safetensors")[0](_batch()).fused_logits,
        second(_batch()).fused_logits,
    )


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    """With a dozen texts, safetensors' own order would differ sooner or later."""
    arrays, notes = (
        {"b": np.ones(3, np.float32), "a": np.arange(5)},
        {f"key {number}": "ä" for number in range(12)},
    )
    written = {to_bytes(arrays, notes) for _ in range(8)}
    assert len(written) == 1
    (tmp_path / "file").write_bytes(written.pop())
    with safe_open(tmp_path / "file", framework="np") as file:
        assert file.metadata() == notes
        assert {name: file.get_tensor(name).tolist() for name in "ab"} == {
            "a": [0, 1, 2, 3, 4],
            "b": [1, 1, 1],
        }


def test_arrays_without_dimensions_and_integers_survive(tmp_path: Path) -> None:
    model = _save(tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    name = "branches.audio.encoder.trunk.1.num_batches_tracked"
    assert (found[name].dtype, found[name].shape, int(found[name])) == (np.int64, (), 1)
    assert set(found) == set(model.state_dict())


def _metadata(path: Path) -> dict[str, str]:
    _save(path)
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("content", [b"not a model", b"", b"cut"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    _save(path)
    path.write_bytes(path.read_bytes()[:-100] if content == b"cut" else content)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: not a model written by this project"
    ):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"model": "{"},
        {"model": "7"},
        {"inputs": "null"},
        {"model": {"colour": "red"}},
        {"model": {"embedding_dim": 5}},
        {"model": {"fusion": "magic"}},
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, change: dict[str, Any] | None) -> None:
    """None: a file of another program, with its own metadata.

    Else: metadata that do not fit the arrays.
    """
    path = tmp_path / "model.safetensors"
    metadata = _metadata(path)
    for key, value in (change or {}).items():
        metadata[key] = (
            json.dumps({**json.loads(metadata[key]), **value}) if isinstance(value, dict) else value
        )
    save_file(load_file(path), path, metadata=metadata if change else {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: not a model written by this project"
    ):
        load_model(path)
