"""What a frozen trunk makes of each sample, kept on the node: it runs once a sample.

One file for a node's samples of a modality, in the cache directory of this machine, named by all
that decides what is in it. It never leaves the node, holds no more than the samples do, and may be
removed at any time.
"""

import hashlib
import io
import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client_app.node import Node
from fedcmi_flwr import wire
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.models.encoders import Encoder
from fedcmi_flwr.models.multimodal import MultimodalModel

logger = logging.getLogger("flwr.fedcmi")

DIRECTORY = "features"
"""In the cache directory."""
KEPT_SECONDS = 30 * 24 * 3600
"""Since a file was last used, after which the next one that is written removes it."""


def with_stored_features(
    model: MultimodalModel, samples: Samples, node: Node, task: wire.Task
) -> Samples:
    """Put features in the place of samples, where a frozen trunk always sees the same.

    Parameters
    ----------
    model
        The received one, on its device; from now on its encoders of these modalities take
        features.
    samples
        The node's training samples, with the task's views.
    node
        The node.
    task
        What the server sent, the checksums of the frozen trunks among it.

    Returns
    -------
    Samples at the same indices, of features where there are some.
    """
    if node.run.machine.features_cache == "off":
        return samples

    for modality in samples.modalities:
        name, encoder = modality.name, model.branch(modality.name).encoder
        fixed = name in model.spec.frozen and samples.views.repeat(modality) and _is_plain(encoder)
        if not fixed or name not in samples.seen_modalities:
            continue

        path = _path(model, samples, node, modality, task.config[f"frozen.{name}"][0])
        samples = _replaced(samples, modality, _found(path, encoder, samples, modality))
        encoder.given_features = True

    return samples


def _is_plain(encoder: Encoder) -> bool:
    """Return whether an encoder is its output layer on what its trunk makes of a sample."""
    return type(encoder).forward is Encoder.forward and type(encoder).features is Encoder.features


def _path(
    model: MultimodalModel, samples: Samples, node: Node, modality: ModalitySpec, checksum: str
) -> Path:
    """Return the file of a node's features, named by what they are of and computed by."""
    name, encoder = modality.name, model.branch(modality.name).encoder
    source = node.directory / "dataset.json"
    described: dict[str, Any] = {
        "trunk": [
            model.spec.encoders[name],
            model.spec.options.get(name),
            model.spec.normalization,
            checksum,
        ],
        "samples": [
            str(node.directory),
            source.stat().st_mtime_ns,
            _digest(samples.rows.tobytes()),
        ],
        "seen": [modality.to_json(), samples.views.size],
        "computed": [
            torch.__version__,
            next(encoder.parameters()).device.type,
            encoder.in_bfloat16,
        ],
    }
    key = _digest(json.dumps(described, sort_keys=True).encode())

    return cache_directory() / DIRECTORY / f"{key}.npy"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _found(
    path: Path, encoder: Encoder, samples: Samples, modality: ModalitySpec
) -> NDArray[np.float32]:
    """Return the features of the samples that have the modality, from a good file or anew."""
    only = _of_one(samples, modality)
    try:
        stored = np.load(path, allow_pickle=False)
        if stored.ndim == 2 and len(stored) == len(only.rows) and stored.dtype == np.float32:
            path.touch()
            return np.asarray(stored)

        logger.warning(
            "%s: not the features of this node's samples; they are computed again.", path
        )
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s: cannot be read (%s); features are computed again.", path, error)

    features = _computed(encoder, only, modality)
    _write(path, features)

    return features


def _of_one(samples: Samples, modality: ModalitySpec) -> Samples:
    """Return the samples that have a modality, without the others."""
    column = samples.modalities.index(modality)
    return replace(
        samples,
        modalities=(modality,),
        arrays={modality.name: samples.arrays[modality.name]},
        has=samples.has[:, [column]],
        rows=samples.rows[samples.has[samples.rows, column]],
    )


@torch.inference_mode()
def _computed(encoder: Encoder, samples: Samples, modality: ModalitySpec) -> NDArray[np.float32]:
    device, name = next(encoder.parameters()).device, modality.name
    pieces = [
        encoder.features(batch.inputs[name]).float().cpu().numpy()
        for batch in samples.evaluation_batches((name,), device)
    ]
    return np.concatenate(pieces)


def _write(path: Path, features: NDArray[np.float32]) -> None:
    """Keep features; without room for them each round computes them again."""
    content = io.BytesIO()
    np.save(content, features)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, content.getvalue())
        oldest = time.time() - KEPT_SECONDS

        for other in path.parent.glob("*.npy"):
            if other.stat().st_mtime < oldest:
                other.unlink(missing_ok=True)
    except OSError as error:
        logger.warning(
            "%s: features cannot be kept (%s); each round computes them again.", path, error
        )


def _replaced(samples: Samples, modality: ModalitySpec, features: NDArray[np.float32]) -> Samples:
    """Return samples whose modality is a vector, without normalisation."""
    name, column = modality.name, samples.modalities.index(modality)
    has = samples.has[samples.rows, column]
    width = math.prod(features.shape[1:])
    # Rows of others' samples take no memory
    array = np.zeros((len(samples.labels), width), np.float32)
    array[samples.rows[has]] = features
    vector = ModalitySpec(name, "vector", (width,), "float32")
    modalities = tuple(vector if each.name == name else each for each in samples.modalities)

    return replace(samples, modalities=modalities, arrays={**samples.arrays, name: array})
