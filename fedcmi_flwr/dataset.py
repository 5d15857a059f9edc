"""Prepared directory -> samples -> batches; ``partitions.py`` deals the samples to the nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import ModuleDict

from fedcmi_flwr.cache import cache_directory
from fedcmi_flwr.schema import (
    SAMPLE_COLUMNS,
    DatasetSpec,
    ModalitySpec,
    SchemaError,
    array_path,
    labels_path,
    read_spec,
    samples_path,
)
from fedcmi_flwr.types import SHARED, Batch, Modality
from fedcmi_flwr.views import AS_STORED, Views

BUILT_IN = ("av-digits",)
"""Data sets that need no download; they are prepared on first use, in the cache directory."""


REPAIR = "remove the directory and prepare it again."
CPU = torch.device("cpu")


class DataError(ValueError):
    """Data that cannot be used as the configuration asks."""


def locate(data: str) -> Path:
    """Return the prepared directory behind the ``data`` key, preparing a built-in data set on first use.

    Parameters
    ----------
    data
        A name in BUILT_IN or the path of a prepared directory.

    Returns
    -------
    A finished prepared directory.

    Raises
    ------
    DataError
        The path is not a directory.
    """
    if data in BUILT_IN:
        from data_prep import (
            av_digits,
        )  # the one import of an app from here: server and clients may be the first user

        return av_digits.prepare(cache_directory() / data)
    directory = Path(data).expanduser()
    if not directory.is_dir():
        raise DataError(
            f"data = {data!r}: no such directory, and not a built-in data set ({', '.join(BUILT_IN)}); "
            "give the absolute path of a directory made by `fedcmi prep`."
        )
    return directory


@dataclass(frozen=True)
class Samples:
    """Some rows of one split, seen through some of its modalities; arrays stay on disk until a batch needs them."""

    modalities: tuple[ModalitySpec, ...]
    arrays: dict[Modality, NDArray[Any]]
    """[all samples, *shape] per modality, memory-mapped."""
    labels: NDArray[np.int64]
    """[all samples]."""
    groups: NDArray[np.str_]
    """[all samples]: actor, speaker, ..."""
    has: NDArray[np.bool_]
    """[all samples, modalities]."""
    rows: NDArray[np.int64]
    """The rows that are meant."""
    views: Views = AS_STORED
    """How they are looked at."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def seen_modalities(self) -> tuple[Modality, ...]:
        """Modalities that at least one of the samples has."""
        has = self.has[self.rows]
        return tuple(modality.name for column, modality in enumerate(self.modalities) if has[:, column].any())

    def select(self, rows: NDArray[np.int64]) -> "Samples":
        """Return these rows (numbers within the split) only."""
        return replace(self, rows=rows)

    def batch(
        self,
        rows: NDArray[np.int64],
        federation: Sequence[Modality],
        device: torch.device = CPU,
        chance: torch.Generator | None = None,
    ) -> Batch:
        """Read rows of the split into a normalised batch.

        Parameters
        ----------
        rows
            Numbers within the split.
        federation
            The columns of ``present``.
        device
            Where the batch goes in its stored dtype, to be cropped and normalised there.
        chance
            Draws a training view of each sample; None: the evaluation views.

        Returns
        -------
        The batch on ``device``.
        """
        inputs = {}
        present = torch.zeros(len(rows), len(federation), dtype=torch.bool)
        for column, modality in enumerate(self.modalities):
            stored = self._read(modality, rows, chance).to(device, non_blocking=True)
            inputs[modality.name] = self.views.show(stored, modality, chance)
            present[:, federation.index(modality.name)] = torch.from_numpy(self.has[rows, column])
        complete = bool(self.has[rows].all())
        if not complete:
            self._blank(inputs, rows)
        return Batch(inputs, torch.from_numpy(self.labels[rows]).to(device), present.to(device), complete)

    def _read(self, modality: ModalitySpec, rows: NDArray[np.int64], chance: torch.Generator | None) -> torch.Tensor:
        """Copy what the views show of these rows out of the file."""
        array, moments = self.arrays[modality.name], self.views.moments(modality, len(rows), chance)
        wanted = array[rows] if moments is None else array[rows[:, None], moments]
        return torch.from_numpy(np.asarray(wanted))

    def _blank(self, inputs: dict[Modality, torch.Tensor], rows: NDArray[np.int64]) -> None:
        for column, modality in enumerate(self.modalities):
            absent = torch.from_numpy(~self.has[rows, column])
            inputs[modality.name][absent.to(inputs[modality.name].device)] = 0

    def training_batches(
        self,
        batch_size: int,
        federation: Sequence[Modality],
        generator: torch.Generator,
        device: torch.device = CPU,
        chance: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Yield one epoch in random order; a last batch of one sample joins the batch before it.

        Parameters
        ----------
        batch_size
            Samples in a batch.
        federation
            As for :meth:`batch`.
        generator
            Draws the order.
        device
            As for :meth:`batch`.
        chance
            As for :meth:`batch`.

        Yields
        ------
        Batches on ``device``.
        """
        order = self.rows[torch.randperm(len(self.rows), generator=generator).numpy()]
        starts = list(range(0, len(order), batch_size))
        if len(order) - starts[-1] == 1 and len(starts) > 1:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            yield self.batch(order[start:end], federation, device, chance)

    def batches(self, batch_size: int, federation: Sequence[Modality], device: torch.device = CPU) -> Iterator[Batch]:
        """Yield the samples in stored order, in their evaluation views."""
        for start in range(0, len(self.rows), batch_size):
            yield self.batch(self.rows[start : start + batch_size], federation, device)

    def evaluation_batches(self, federation: Sequence[Modality], device: torch.device = CPU) -> Iterator[Batch]:
        """Yield the samples in stored order, as many at a time as is good where no gradient is needed."""
        return self.batches(self.views.evaluation_batch(self.modalities), federation, device)


def load_split(directory: Path, split: str, modalities: Sequence[Modality] | None = None) -> Samples:
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
    import pandas as pd  # here: training alone, on a machine that has torch and nothing else, does without

    spec = read_spec(directory)
    if split not in spec.splits:
        raise DataError(f"{directory}: no split {split!r}, only {sorted(spec.splits)}.")
    chosen = _chosen(directory, spec, modalities)
    try:
        labels = np.load(labels_path(directory, split), allow_pickle=False)
        arrays = {m.name: np.load(array_path(directory, split, m.name), mmap_mode="r") for m in chosen}
        table = pd.read_csv(samples_path(directory, split), dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing; {REPAIR}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        files = [labels_path(directory, split), *(array_path(directory, split, m.name) for m in chosen)]
        names = ", ".join(path.name for path in files)
        raise SchemaError(f"{directory / split}: one of {names} is cut off or broken ({error}); {REPAIR}") from error
    absent = [column for column in SAMPLE_COLUMNS if column not in table]
    if absent:
        raise SchemaError(f"{samples_path(directory, split)}: column {absent[0]!r} is missing; {REPAIR}")
    _check_sizes(directory, split, spec, {"labels": labels, "samples": table, **arrays})
    _check_values(directory, split, spec, labels)
    owned = table["modalities"].str.split("+")
    strange = sorted({name for names in owned for name in names} - {*spec.modality_names, ""})
    if strange:
        raise SchemaError(
            f"{samples_path(directory, split)}: modality {strange[0]!r} is not one of {list(spec.modality_names)}; "
            f"{REPAIR}"
        )
    has = np.array([[m.name in names for m in chosen] for names in owned], dtype=bool).reshape(len(table), len(chosen))
    groups = table["group"].to_numpy(dtype=np.str_)
    return Samples(chosen, arrays, labels, groups, has, np.flatnonzero(has.any(axis=1)))


def _chosen(directory: Path, spec: DatasetSpec, modalities: Sequence[Modality] | None) -> tuple[ModalitySpec, ...]:
    stored = {modality.name: modality for modality in spec.modalities}
    names = tuple(stored) if modalities is None else tuple(modalities)
    absent = [name for name in names if name not in stored]
    if absent:
        raise DataError(f"{directory}: modality {absent[0]!r} is not stored there, only {list(stored)}.")
    return tuple(stored[name] for name in names)


def _check_sizes(directory: Path, split: str, spec: DatasetSpec, files: dict[str, Any]) -> None:
    shapes = {modality.name: modality.shape for modality in spec.modalities}
    dtypes = {modality.name: modality.dtype for modality in spec.modalities}
    for name, content in files.items():
        if len(content) != spec.splits[split]:
            raise SchemaError(
                f"{directory / split}: {name} has {len(content)} samples, dataset.json says {spec.splits[split]}; "
                f"{REPAIR}"
            )
        if name in dtypes and str(content.dtype) != dtypes[name]:
            raise SchemaError(
                f"{directory / split}: {name} holds {content.dtype}, dataset.json says {dtypes[name]}; {REPAIR}"
            )
        if name in shapes and content.shape[1:] != shapes[name]:
            raise SchemaError(
                f"{directory / split}: {name} has samples of shape {content.shape[1:]}, dataset.json says "
                f"{shapes[name]}; {REPAIR}"
            )


def _check_values(directory: Path, split: str, spec: DatasetSpec, labels: NDArray[np.int64]) -> None:
    if labels.dtype != np.int64:
        raise SchemaError(f"{labels_path(directory, split)}: labels are {labels.dtype}, must be int64; {REPAIR}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(spec.classes)):
        raise SchemaError(
            f"{labels_path(directory, split)}: labels from {labels.min()} to {labels.max()}, but there are "
            f"{len(spec.classes)} classes; {REPAIR}"
        )


def check_modality_names(names: Sequence[Modality]) -> None:
    """Raise DataError for a modality name that cannot be part of a parameter's name or a group's name."""
    for name in names:
        taken = name == SHARED or hasattr(ModuleDict, name)
        if taken or not name.replace("-", "").replace("_", "").isalnum():
            raise DataError(f"modality {name!r}: use letters, digits, '-' and '_', and no word of torch or {SHARED!r}.")
