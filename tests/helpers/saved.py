"""Tiny models in files, as a run leaves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kinds
import torch

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.file import save_model
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.wire.tensors import to_arrays

ENCODERS = {"audio": "small-cnn", "motion": "cnn-1d", "visual": "resnet18", "text": "bert", "image": "densenet121",
            "lab": "mlp"}  # fmt: skip
"""Of the modalities of ``kinds``."""
CLASSES = ("no", "yes")
NOTES: dict[str, Any] = {"round": 3, "run-config": {"view-size": 0, "view-frames": 0}, "self-head-votes": 1.0,
                         "infiltration-votes": 0.5}  # fmt: skip


def save(
    path: Path, inputs: Sequence[ModalitySpec], notes: Mapping[str, Any] | None = None, **spec: Any
) -> Path:
    """Write a model with random weights and statistics; ``spec`` changes its architecture."""
    names = tuple(modality.name for modality in inputs)
    encoders = {name: ENCODERS[name] for name in names}
    options = {
        name: kinds.TINY[encoder] for name, encoder in encoders.items() if encoder in kinds.TINY
    }
    plain: dict[str, Any] = {"encoders": encoders, "options": options, "projector": "linear"}
    plain |= {"fusion": "concat", "structure": "two-projectors"}
    described = ModelSpec(names, len(CLASSES), 6, **{**plain, **spec})
    torch.manual_seed(0)
    model = MultimodalModel(described, inputs)
    for name, buffer in model.named_buffers():  # what batch norm has seen
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    save_model(
        path, to_arrays(model.state_dict()), described, inputs, CLASSES, {**NOTES, **(notes or {})}
    )
    return path
