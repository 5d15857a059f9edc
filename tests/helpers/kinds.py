"""Prepared directories with every kind of modality, and tiny pretrained weights of the paper's
architectures.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from fedcmi_flwr.data.schema import (
    DatasetSpec,
    ModalitySpec,
    array_path,
    labels_path,
    samples_path,
    write_spec,
)
from fedcmi_flwr.models.encoders import build_encoder

IMAGENET_MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * value for value in (0.229, 0.224, 0.225))
SPECTROGRAM = ModalitySpec("audio", "spectrogram", (1, 33, 40), "float16")
FRAMES = ModalitySpec("visual", "frames", (6, 3, 40, 40), "uint8", IMAGENET_MEAN, IMAGENET_STD)
IMAGE = ModalitySpec("image", "image", (3, 36, 40), "uint8", IMAGENET_MEAN, IMAGENET_STD)
TOKENS = ModalitySpec("text", "tokens", (8,), "int32")
SERIES = ModalitySpec("motion", "series", (6, 50), "float32", (0.0,) * 6, (2.0,) * 6)
VECTOR = ModalitySpec(
    "lab", "vector", (5,), "float32", (1.0, 0.0, 0.0, 0.0, -1.0), (2.0, 1.0, 1.0, 1.0, 0.5)
)
TINY: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": [1, 1, 1, 1]},
    "densenet121": {"growth_rate": 4, "block_config": [1, 1, 1, 1], "num_init_features": 8, "num_classes": 12},
    "bert": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40,
        "max_position_embeddings": 16, "model_type": "bert",
    },
}  # fmt: skip
"""Encoder -> what its config.json may say."""


def values(modality: ModalitySpec, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return made-up samples in stored units whose mean, or tokens, tell the class."""
    rng, count = np.random.default_rng(seed), len(labels)
    if modality.kind == "tokens":
        tokens = rng.integers(10, 40, (count, *modality.shape))
        tokens[:, 1] = 3 + labels
        tokens[np.arange(modality.shape[0]) >= 4 + np.arange(count)[:, None] % 4] = 0
        return tokens.astype(modality.dtype)
    signal = labels.reshape(-1, *[1] * len(modality.shape))
    if modality.dtype == "uint8":
        return np.clip(rng.normal(90 + 40 * signal, 30, (count, *modality.shape)), 0, 255).astype(
            np.uint8
        )
    return (rng.normal(size=(count, *modality.shape)) + signal).astype(modality.dtype)


def prepare(
    directory: Path,
    *modalities: ModalitySpec,
    count: int = 24,
    absent: Mapping[int, str] | None = None,
) -> Path:
    """Write a prepared directory of two classes in turn.

    ``absent`` names the modality that a sample lacks.
    """
    splits = {"train": count, "test": count // 2}
    for number, (split, size) in enumerate(splits.items()):
        labels = np.arange(size) % 2
        (directory / split).mkdir(parents=True)
        np.save(labels_path(directory, split), labels)
        for place, modality in enumerate(modalities):
            array = values(modality, labels, 10 * number + place)
            array[
                [
                    row
                    for row, name in (absent or {}).items()
                    if name == modality.name and row < size
                ]
            ] = 0
            np.save(array_path(directory, split, modality.name), array)
        with samples_path(directory, split).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label", "group", "modalities", "source"])
            for i in range(size):
                has = "+".join(m.name for m in modalities if (absent or {}).get(i) != m.name)
                writer.writerow([f"s{i}", labels[i], f"g{i % 4}", has, "made up"])
    write_spec(
        directory, DatasetSpec("toy", "classification", ("no", "yes"), modalities, splits, {}, {})
    )
    return directory


def weights(
    directory: Path,
    encoder: str,
    modality: ModalitySpec,
    seed: int = 0,
    normalization: str = "batch",
) -> Path:
    """Write random weights of an encoder's trunk, in its tiny configuration where it has one."""
    options = TINY.get(encoder, {})
    torch.manual_seed(seed)
    trunk = build_encoder(encoder, modality, 4, normalization, options).trunk
    directory.mkdir(parents=True)
    save_file(trunk.state_dict(), directory / "model.safetensors")
    if options:
        (directory / "config.json").write_text(json.dumps(options))
    return directory
