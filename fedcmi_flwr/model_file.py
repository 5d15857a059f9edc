"""Trained models on disk: safetensors, with all that is needed to build the model again in the metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedcmi_flwr.aggregation import AnyArray
from fedcmi_flwr.model import ModelSpec, MultimodalModel
from fedcmi_flwr.schema import ModalitySpec


class CheckpointError(ValueError):
    """A file that is not a model or checkpoint of this project, or a broken one."""


def save_model(
    path: Path,
    arrays: Mapping[str, AnyArray],
    spec: ModelSpec,
    inputs: Sequence[ModalitySpec],
    classes: Sequence[str],
    notes: Mapping[str, Any],
) -> None:
    """Write a model so that a reader finds either the old file or the new one, whole.

    Parameters
    ----------
    path
        Where to; replaced if it exists.
    arrays
        Name -> array of the whole model.
    spec
        Architecture.
    inputs
        Kind, shape and normalisation of each modality.
    classes
        Class names in index order.
    notes
        Anything that JSON can hold: run configuration, round.
    """
    described = {"model": asdict(spec), "inputs": [asdict(item) for item in inputs], "classes": list(classes)}
    metadata = {key: json.dumps(value) for key, value in {**described, "notes": dict(notes)}.items()}
    partial = path.with_suffix(".partial")
    save_file(dict(arrays), partial, metadata=metadata)
    partial.replace(path)


def load_model(path: Path) -> tuple[MultimodalModel, dict[str, Any]]:
    """Build the model of a checkpoint and load its weights.

    Parameters
    ----------
    path
        A file written by :func:`save_model`.

    Returns
    -------
    The model in eval mode, and the metadata: model, inputs, classes, notes.

    Raises
    ------
    CheckpointError
        Not a safetensors file, or without this project's metadata.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        fields = dict(**metadata["model"])
        described: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        spec, inputs = ModelSpec(**described), [ModalitySpec.from_fields(item) for item in metadata["inputs"]]
        model = MultimodalModel(spec, inputs)
        model.load_state_dict(arrays)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a model written by this project ({error}).") from error
    return model.eval(), metadata
