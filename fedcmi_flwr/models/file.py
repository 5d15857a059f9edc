"""Trained models on disk.

Safetensors, with all that is needed to build the model again in the metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.lookup import UnknownNameError, package_of
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.models.encoders import ENCODER
from fedcmi_flwr.models.fusion import FUSION
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import AnyArray, Modality

MODEL_FILE = "model.safetensors"
"""In a run directory."""
CARD = "MODEL_CARD.md"
"""Beside it, where a run has finished."""


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
    described: dict[str, Any] = {"model": asdict(spec), "inputs": [asdict(item) for item in inputs]}
    described["classes"] = list(classes)
    if packages := outside_packages(spec):
        described["packages"] = packages

    metadata = {
        key: json.dumps(value) for key, value in {**described, "notes": dict(notes)}.items()
    }
    write_atomically(path, to_bytes(arrays, metadata))


def to_bytes(arrays: Mapping[str, AnyArray], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file.

    The same arrays and texts always give the same bytes.

    Parameters
    ----------
    arrays
        Name -> array.
    metadata
        Key -> text; safetensors itself stores it in another order every time.

    Returns
    -------
    The length of the header in 8 bytes, the header in JSON, filled up with spaces, and the arrays.
    """
    plain = save(dict(arrays))
    length = int.from_bytes(plain[:8], "little")
    described = {"__metadata__": dict(metadata), **json.loads(plain[8 : 8 + length])}
    header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # arrays begin at a multiple of 8

    return len(header).to_bytes(8, "little") + header + plain[8 + length :]


def load_model(
    path: Path, modalities: Sequence[Modality] | None = None
) -> tuple[MultimodalModel, dict[str, Any]]:
    """Build the model of a checkpoint and load its weights.

    Parameters
    ----------
    path
        A file written by :func:`save_model`.
    modalities
        Whose branches to build and read; None: all.

    Returns
    -------
    The model in eval mode, and the metadata: model, inputs, classes, notes.

    Raises
    ------
    CheckpointError
        Not a safetensors file, without this project's metadata, without one of the modalities,
        or none is asked for; or a part of the model comes from a package that is not installed
        here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}

        stored = [str(item["name"]) for item in metadata["inputs"]]
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise _foreign(path, error) from error

    if modalities is not None:
        _check_asked(path, modalities, stored)

    asked = stored if modalities is None else modalities
    try:
        wanted = [item for item in metadata["inputs"] if item["name"] in asked]
        left_out = tuple(f"branches.{name}." for name in stored if name not in asked)
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.startswith(left_out)]  # noqa: SIM118 (not a mapping)
            arrays = {name: file.get_tensor(name) for name in names}

        fields = dict(**metadata["model"])
        described: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        spec, inputs = ModelSpec(**described), [ModalitySpec.from_fields(item) for item in wanted]
        model = MultimodalModel(spec, inputs)
        model.load_state_dict(arrays)
    except UnknownNameError as error:
        raise _incomplete(path, metadata, error) from error
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _foreign(path, error) from error

    return model.eval(), metadata


def outside_packages(spec: ModelSpec) -> list[str]:
    """Return what a model needs besides this project, "my-package 0.1.0"."""
    found = {package_of(ENCODER, name) for name in spec.encoders.values()} | {
        package_of(FUSION, spec.fusion)
    }
    return sorted(found - {""})


def _incomplete(
    path: Path, metadata: Mapping[str, Any], error: UnknownNameError
) -> CheckpointError:
    """Say which package the model of a file needs.

    Without a package it names what this project does not know.
    """
    if "packages" not in metadata:
        return _foreign(path, error)

    packages = ", ".join(map(str, metadata["packages"]))
    return CheckpointError(
        f"{path}: this model was trained with {packages}; install that here. {error}"
    )


def _foreign(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not a model written by this project ({error}).")


def _check_asked(path: Path, asked: Sequence[Modality], stored: Sequence[Modality]) -> None:
    """Raise CheckpointError unless a model has what it is asked for."""
    if not asked:
        raise CheckpointError(
            f"{path}: asked for no modality; ask for one or more of {list(stored)}."
        )
    for name in asked:
        if name not in stored:
            raise CheckpointError(
                f"{path}: asked for modality {name!r}, the model has {list(stored)}; ask for those."
                f"{did_you_mean(name, stored)}"
            )
