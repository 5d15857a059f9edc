"""From decoded rows to the files of a prepared directory."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from data_prep.pipeline.plan import MeanStd, Planned, Stream
from data_prep.pipeline.rows import RowStore
from data_prep.pipeline.tables import write_samples
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, array_path, write_recipes

CHUNK_BYTES = 1 << 24
"""What is read at a time where rows are copied or measured."""
BY_FIRST_AXIS = ("series", "vector")
"""Kinds whose channels or features may have units of their own: each is measured by itself."""
ROUNDING = 1e-10
"""Standard deviation of what never changes, relative to its mean: sums are rounded."""


def assemble(
    store: RowStore,
    left_out: Sequence[int],
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
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
            raise PrepError(
                f"split {split!r}: none of its {store.sizes[split]} samples can be used."
            )

        (directory / split).mkdir()
        positions = [store.positions[row] for row in rows]

        for modality in names:
            _store(
                store.files[split, modality].path, array_path(directory, split, modality), positions
            )

        write_samples(directory, split, [plan.samples[row] for row in rows], names)

    write_recipes(directory, {stream.name: stream.recipe for stream in plan.streams})
    split = "train" if "train" in kept else next(iter(kept))  # a server may have test samples only
    measured = [plan.samples[row] for row in kept[split]]
    modalities = tuple(_describe(directory, stream, split, measured) for stream in plan.streams)
    sizes = {split: len(rows) for split, rows in kept.items()}

    return DatasetSpec(
        name,
        "classification",
        tuple(plan.classes),
        modalities,
        sizes,
        dict(settings),
        dict(plan.tools),
    )


def _store(source: Path, target: Path, positions: Sequence[int]) -> None:
    """Give a file of rows its place.

    The same file where all rows are kept, else a copy of the kept ones.
    """
    rows = np.load(source, mmap_mode="r")
    if len(positions) == len(rows):
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)

        return

    with target.open("wb") as file:
        described = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(
            file, {**described, "shape": (len(positions), *rows.shape[1:])}
        )
        for chunk in _chunks(rows, positions):
            file.write(chunk.tobytes())


def _chunks(rows: NDArray[Any], positions: Sequence[int]) -> Iterator[NDArray[Any]]:
    step = max(1, CHUNK_BYTES // max(rows[:1].nbytes, 1))
    return (rows[list(positions[start : start + step])] for start in range(0, len(positions), step))


def _describe(
    directory: Path, stream: Stream, split: str, samples: Sequence[Planned]
) -> ModalitySpec:
    mean, std = stream.mean_std or _measure(directory, stream, split, samples)
    return ModalitySpec(stream.name, stream.kind, stream.shape, stream.dtype, mean, std)


def _measure(directory: Path, stream: Stream, split: str, samples: Sequence[Planned]) -> MeanStd:
    """Return mean and standard deviation of the samples that have the modality.

    One each, or one a channel.
    """
    positions = [position for position, sample in enumerate(samples) if stream.name in sample.jobs]
    if not positions:
        raise PrepError(
            f"no {split} sample has {stream.name}: there is nothing to normalise it by."
        )

    rows = np.load(array_path(directory, split, stream.name), mmap_mode="r")
    channels = stream.shape[0] if stream.kind in BY_FIRST_AXIS else 1
    count = len(positions) * rows[0].size // channels

    total = sum(
        _by_channel(chunk, channels).sum(axis=1, keepdims=True)
        for chunk in _chunks(rows, positions)
    )
    mean = np.asarray(total) / count
    chunks = (_by_channel(chunk, channels) for chunk in _chunks(rows, positions))
    squares = sum(np.square(values - mean).sum(axis=1) for values in chunks)
    std = np.sqrt(np.asarray(squares) / count)

    constant = std <= ROUNDING * np.abs(mean.ravel())
    if constant.all():
        raise PrepError(
            f"{stream.name} never changes in the {split} split: there is nothing to learn from."
        )

    std[constant] = 1  # a channel or feature of many that never changes: fed to the encoder as 0
    if channels == 1:
        return mean.item(), std.item()

    return tuple(mean.ravel().tolist()), tuple(std.tolist())


def _by_channel(chunk: NDArray[Any], channels: int) -> NDArray[np.float64]:
    """Return the values of a chunk of rows as [channels, values]."""
    values = chunk.astype(np.float64).reshape(len(chunk), channels, -1)
    return values.swapaxes(0, 1).reshape(channels, -1)
