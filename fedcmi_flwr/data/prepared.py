"""Prepared directory -> samples; ``partitions.py`` deals them to the nodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch.nn import ModuleDict

from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import (
    SAMPLE_COLUMNS,
    DatasetSpec,
    ModalitySpec,
    SchemaError,
    array_path,
    labels_path,
    read_spec,
    samples_path,
)
from fedcmi_flwr.data.table import read_columns
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import SHARED, Modality

FILES = ("labels", "samples")
"""Names of files beside the arrays of modalities."""
REPAIR = "remove the directory and prepare it again."


class DataError(ValueError):
    """Data that cannot be used as the configuration asks."""


def load_split(
    directory: Path, split: str, modalities: Sequence[Modality] | None = None
) -> Samples:
    """Open one split of a prepared directory.

    Parameters
    ----------
    directory
        A prepared directory.
    split
        Name of the split ("train", "test").
    modalities
        What to look at; None: all that are stored.

    Returns
    -------
    All samples of the split that have at least one of the modalities.

    Raises
    ------
    DataError
        A split or modality that is not stored, or a missing file.
    SchemaError
        Files that contradict ``dataset.json``.
    """
    spec = read_spec(directory)
    if split not in spec.splits:
        raise DataError(f"{directory}: no split {split!r}, only {sorted(spec.splits)}.")

    chosen = _chosen(directory, spec, modalities)
    try:
        labels = np.load(labels_path(directory, split), allow_pickle=False)
        arrays = {
            m.name: np.load(array_path(directory, split, m.name), mmap_mode="r") for m in chosen
        }
        table = read_columns(samples_path(directory, split))
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing; {REPAIR}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        files = [
            labels_path(directory, split),
            *(array_path(directory, split, m.name) for m in chosen),
        ]
        names = ", ".join(path.name for path in files)
        raise SchemaError(
            f"{directory / split}: one of {names} is cut off or broken ({error}); {REPAIR}"
        ) from error

    absent = [column for column in SAMPLE_COLUMNS if column not in table]
    if absent:
        raise SchemaError(
            f"{samples_path(directory, split)}: column {absent[0]!r} is missing; {REPAIR}"
        )

    _check_sizes(
        directory, split, spec, {"labels": labels, "samples": table["modalities"], **arrays}
    )
    _check_values(directory, split, spec, labels)
    owned = [names.split("+") for names in table["modalities"]]
    strange = sorted({name for names in owned for name in names} - {*spec.modality_names, ""})
    if strange:
        raise SchemaError(
            f"{samples_path(directory, split)}: modality {strange[0]!r} is not one of "
            f"{list(spec.modality_names)}; {REPAIR}"
        )

    has = np.array([[m.name in names for m in chosen] for names in owned], dtype=bool).reshape(
        len(owned), len(chosen)
    )
    sources = np.array(table["group"], dtype=np.str_)

    return Samples(chosen, arrays, labels, sources, has, np.flatnonzero(has.any(axis=1)))


def _chosen(
    directory: Path, spec: DatasetSpec, modalities: Sequence[Modality] | None
) -> tuple[ModalitySpec, ...]:
    stored = {modality.name: modality for modality in spec.modalities}
    names = tuple(stored) if modalities is None else tuple(modalities)
    absent = [name for name in names if name not in stored]
    if absent:
        near = did_you_mean(absent[0], stored)
        raise DataError(
            f"{directory}: modality {absent[0]!r} is not stored there, only {list(stored)}.{near}"
        )

    return tuple(stored[name] for name in names)


def _check_sizes(directory: Path, split: str, spec: DatasetSpec, files: dict[str, Any]) -> None:
    shapes = {modality.name: modality.shape for modality in spec.modalities}
    dtypes = {modality.name: modality.dtype for modality in spec.modalities}
    for name, content in files.items():
        if len(content) != spec.splits[split]:
            raise SchemaError(
                f"{directory / split}: {name} has {len(content)} samples, dataset.json says "
                f"{spec.splits[split]}; {REPAIR}"
            )
        if name in dtypes and str(content.dtype) != dtypes[name]:
            raise SchemaError(
                f"{directory / split}: {name} holds {content.dtype}, dataset.json says "
                f"{dtypes[name]}; {REPAIR}"
            )
        if name in shapes and content.shape[1:] != shapes[name]:
            raise SchemaError(
                f"{directory / split}: {name} has samples of shape {content.shape[1:]}, "
                f"dataset.json says {shapes[name]}; {REPAIR}"
            )


def _check_values(
    directory: Path, split: str, spec: DatasetSpec, labels: NDArray[np.int64]
) -> None:
    if labels.dtype != np.int64:
        raise SchemaError(
            f"{labels_path(directory, split)}: labels are {labels.dtype}, must be int64; {REPAIR}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(spec.classes)):
        raise SchemaError(
            f"{labels_path(directory, split)}: labels from {labels.min()} to {labels.max()}, but "
            f"there are {len(spec.classes)} classes; {REPAIR}"
        )


def check_modality_names(names: Sequence[Modality]) -> None:
    """Raise DataError for a modality name that cannot be part of a parameter's name or a group's
    name.
    """
    for name in names:
        taken = name == SHARED or name.lower() in FILES or hasattr(ModuleDict, name)
        if taken or not name.replace("-", "").replace("_", "").isalnum():
            raise DataError(
                f"modality {name!r}: use letters, digits, '-' and '_', and no word of torch, "
                f"{SHARED!r}, or {' or '.join(FILES)}."
            )
