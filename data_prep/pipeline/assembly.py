"""From decoded rows to the files of a prepared directory."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from data_prep.pipeline.plan import MeanStd, Stream
from data_prep.pipeline.rows import RowStore
from data_prep.pipeline.writer import Row, write_table
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, array_path, write_recipes

CHUNK_BYTES = 1 << 24
"""What is read at a time where rows are copied or measured."""
MEASURED_OVER = {"series": (0, 2), "vector": (0,)}
"""Kind -> axes of [samples, *shape] that one mean and deviation are taken over, where these are not all."""
ROUNDING = 1e-10
"""Standard deviation of what never changes, relative to its mean: sums are rounded."""


def assemble(
    store: RowStore, left_out: Sequence[int], directory: Path, name: str, settings: Mapping[str, Any]
) -> DatasetSpec:
    """Write every split and the recipes below ``directory``, without the samples that are left out.

    Parameters
    ----------
    store
        The rows, all decoded but those left out.
    left_out
        Numbers of samples in the plan.
    directory
        Where to write.
    name
        The data set's name.
    settings
        For the description.

    Returns
    -------
    What ``dataset.json`` is to say.
    """
    plan, dropped = store.plan, set(left_out)
    kept: dict[str, list[int]] = {split: [] for split in store.sizes}
    for row, sample in enumerate(plan.samples):
        if row not in dropped:
            kept[sample.split].append(row)
    names = [stream.name for stream in plan.streams]
    for split, rows in kept.items():
        if not rows:
            raise PrepError(f"split {split!r}: none of its {store.sizes[split]} samples can be used.")
        (directory / split).mkdir()
        for stream in plan.streams:
            positions = [store.positions[row] for row in rows]
            _store(store.files[split, stream.name].path, array_path(directory, split, stream.name), positions)
        samples = [plan.samples[row] for row in rows]
        table = [Row(s.id, s.label, s.group, {m: s.sources[m] for m in names if m in s.jobs}) for s in samples]
        write_table(directory, split, table)
    write_recipes(directory, {stream.name: stream.recipe for stream in plan.streams})
    has = {m: np.array([m in plan.samples[row].jobs for row in kept.get("train", [])]) for m in names}
    modalities = tuple(_describe(directory, stream, has[stream.name]) for stream in plan.streams)
    sizes = {split: len(rows) for split, rows in kept.items()}
    return DatasetSpec(name, "classification", tuple(plan.classes), modalities, sizes, dict(settings), dict(plan.tools))


def _store(source: Path, target: Path, positions: Sequence[int]) -> None:
    """Give a file of rows its place: the same file where all rows are kept, else a copy of the kept ones."""
    rows = np.load(source, mmap_mode="r")
    if len(positions) == len(rows):
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)
        return
    with target.open("wb") as file:
        described = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**described, "shape": (len(positions), *rows.shape[1:])})
        for chunk in _chunks(rows, positions):
            file.write(chunk.tobytes())


def _chunks(rows: NDArray[Any], positions: Sequence[int]) -> Iterator[NDArray[Any]]:
    step = max(1, CHUNK_BYTES // max(rows[:1].nbytes, 1))
    return (rows[list(positions[start : start + step])] for start in range(0, len(positions), step))


def _describe(directory: Path, stream: Stream, has: NDArray[np.bool_]) -> ModalitySpec:
    mean, std = stream.mean_std or _measure(directory, stream, has)
    return ModalitySpec(stream.name, stream.kind, stream.shape, stream.dtype, mean, std)


def _measure(directory: Path, stream: Stream, has: NDArray[np.bool_]) -> MeanStd:
    """Return mean and standard deviation over the train samples that have the modality.

    One of each over all values; but one a channel of a series, and one a feature of a vector, which may have units of
    their own.
    """
    if not has.any():
        raise PrepError(f"no train sample has {stream.name}: there is nothing to normalise it by.")
    rows = np.load(array_path(directory, "train", stream.name), mmap_mode="r")
    positions = np.flatnonzero(has).tolist()
    axes = MEASURED_OVER.get(stream.kind, tuple(range(rows.ndim)))
    total = sum(chunk.sum(axes, np.float64, keepdims=True) for chunk in _chunks(rows, positions))
    count = len(positions) * rows[0].size / np.size(total)
    mean = np.asarray(total) / count
    square = sum(np.square(chunk - mean).sum(axes, keepdims=True) for chunk in _chunks(rows, positions))
    std = np.sqrt(np.asarray(square) / count)
    constant = std <= ROUNDING * np.abs(mean)
    if constant.all():
        raise PrepError(f"{stream.name} never changes in the train split: there is nothing to learn from.")
    std[constant] = 1  # a channel or feature of many that never changes: fed to the encoder as 0
    if std.size == 1:
        return mean.item(), std.item()
    return tuple(mean.ravel().tolist()), tuple(std.ravel().tolist())
