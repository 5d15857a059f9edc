"""Samples -> batches on a device.

Whole batches, in their stored dtype, without a wait for the copy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import AS_STORED, Views
from fedcmi_flwr.types import Batch, Modality

CPU = torch.device("cpu")
StoredArray = NDArray[Any] | torch.Tensor
"""Memory-mapped; or a tensor that stays on a device."""
PIECE = 256
"""Samples that are copied at a time when all are."""
RESIDENT_SHARE = 1 / 4
"""Of a GPU's free memory that a node's samples may take; other nodes may train on it at the same
time."""


@dataclass(frozen=True)
class Samples:
    """Some rows of one split, seen through some of its modalities.

    Arrays stay where they are until a batch needs them.

    A sample's index is its position in ``rows``.
    """

    modalities: tuple[ModalitySpec, ...]
    arrays: Mapping[Modality, StoredArray]
    """[all samples, *shape] per modality."""
    labels: NDArray[np.int64]
    """[all samples]."""
    sources: NDArray[np.str_]
    """[all samples]: whom each comes from, an actor, a speaker, ..."""
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
        return tuple(
            modality.name for column, modality in enumerate(self.modalities) if has[:, column].any()
        )

    @property
    def modality_counts(self) -> dict[Modality, int]:
        """How many of the samples have each modality."""
        counts = self.has[self.rows].sum(axis=0).tolist()
        return {
            modality.name: count for modality, count in zip(self.modalities, counts, strict=True)
        }

    def select(self, rows: NDArray[np.int64]) -> "Samples":
        """Return these rows (numbers within the split) only."""
        return replace(self, rows=rows)

    def resident(self, device: torch.device, room: int) -> "Samples":
        """Copy the samples to a device, to stay there in their stored dtype, if they fit.

        Parameters
        ----------
        device
            Where their batches will be wanted.
        room
            Bytes that they may take there.

        Returns
        -------
        Samples at the same indices that give the same batches; these ones themselves where the
        room is too small.
        """
        sizes = [
            math.prod(array.shape[1:]) * array.dtype.itemsize for array in self.arrays.values()
        ]
        if len(self.rows) * sum(sizes) > room:
            return self

        return replace(
            self,
            arrays={name: _copied(array, self.rows, device) for name, array in self.arrays.items()},
            labels=self.labels[self.rows],
            sources=self.sources[self.rows],
            has=self.has[self.rows],
            rows=np.arange(len(self.rows)),
        )

    def batch(
        self,
        indices: NDArray[np.int64],
        federation: Sequence[Modality],
        device: torch.device = CPU,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Read samples into a normalised batch.

        Parameters
        ----------
        indices
            Which ones, from 0 to below their number.
        federation
            The columns of ``present``.
        device
            Where the batch goes in its stored dtype, to be cropped and normalised there.
        generator
            Draws a training view of each sample; None: the evaluation views.

        Returns
        -------
        The batch on ``device``.
        """
        inputs, rows = {}, self.rows[indices]
        present = torch.zeros(len(rows), len(federation), dtype=torch.bool)
        for column, modality in enumerate(self.modalities):
            frame_indices = self.views.frame_indices(modality, len(rows), generator)
            stored = take(self.arrays[modality.name], rows, frame_indices, device)
            inputs[modality.name] = self.views.show(stored, modality, generator)
            present[:, federation.index(modality.name)] = torch.from_numpy(self.has[rows, column])

        complete = bool(self.has[rows].all())
        if not complete:
            self._blank(inputs, rows)

        labels, numbers = torch.from_numpy(self.labels[rows]), torch.from_numpy(np.asarray(indices))

        return Batch(inputs, labels, present, complete, numbers).to(device)

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
        view_generator: torch.Generator | None = None,
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
        view_generator
            The ``generator`` of :meth:`batch`.

        Yields
        ------
        Batches on ``device``.
        """
        order = torch.randperm(len(self.rows), generator=generator).numpy()
        starts = list(range(0, len(order), batch_size))
        if len(order) - starts[-1] == 1 and len(starts) > 1:
            starts.pop()

        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            yield self.batch(order[start:end], federation, device, view_generator)

    def batches(
        self, batch_size: int, federation: Sequence[Modality], device: torch.device = CPU
    ) -> Iterator[Batch]:
        """Yield the samples in stored order, in their evaluation views."""
        for start in range(0, len(self.rows), batch_size):
            yield self.batch(
                np.arange(start, min(start + batch_size, len(self.rows))), federation, device
            )

    def evaluation_batches(
        self, federation: Sequence[Modality], device: torch.device = CPU
    ) -> Iterator[Batch]:
        """Yield the samples in stored order, as many at a time as is good where no gradient is
        needed.
        """
        return self.batches(self.views.evaluation_batch(self.modalities), federation, device)


def take(
    array: StoredArray,
    rows: NDArray[np.int64],
    frame_indices: NDArray[np.int64] | None,
    device: torch.device,
) -> torch.Tensor:
    """Bring rows of an array to a device.

    To a GPU through pinned memory, so that nothing waits for the copy.

    Parameters
    ----------
    array
        [samples, *shape].
    rows
        Which samples.
    frame_indices
        [rows, frames]: which frames of each; None: all of each sample.
    device
        Where to; a resident array must be there already.

    Returns
    -------
    [rows, *shape] in the stored dtype.
    """
    if isinstance(array, torch.Tensor):
        chosen = torch.from_numpy(rows).to(device, non_blocking=True)
        if frame_indices is None:
            return array.index_select(0, chosen)

        return array[
            chosen.unsqueeze(1), torch.from_numpy(frame_indices).to(device, non_blocking=True)
        ]

    found = array[rows] if frame_indices is None else array[rows[:, None], frame_indices]
    wanted = torch.from_numpy(np.asarray(found))
    if device.type == "cuda":
        wanted = wanted.pin_memory()

    return wanted.to(device, non_blocking=True)


def _copied(array: StoredArray, rows: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """Bring rows of an array to a device piece by piece, so that little of it is in pinned memory
    at a time.
    """
    pieces = np.array_split(rows, max(1, math.ceil(len(rows) / PIECE)))
    copy = take(array, rows[:0], None, device).new_empty((len(rows), *array.shape[1:]))
    for piece, part in zip(pieces, copy.split([len(piece) for piece in pieces]), strict=True):
        part.copy_(take(array, piece, None, device))

    return copy


def room_on(device: torch.device) -> int:
    """Return the bytes of a device that samples may stay in.

    None of a CPU's, which has them at hand already.
    """
    if device.type != "cuda":
        return 0

    free, _ = torch.cuda.mem_get_info(device)
    return int(free * RESIDENT_SHARE)
