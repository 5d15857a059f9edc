"""Stored values that are NaN or Inf: where they are, for whoever has to mend them."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.samples import Samples, StoredArray

CHUNK_BYTES = 1 << 24
"""What is looked at a time."""


def chunks(
    array: StoredArray, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
    """Yield row numbers and their samples, some at a time.

    Parameters
    ----------
    array
        [samples, *shape].
    rows
        Which samples.

    Yields
    ------
    Row numbers [n], and samples [n, *shape].
    """
    step = max(1, CHUNK_BYTES // max(math.prod(array.shape[1:]) * array.dtype.itemsize, 1))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield part, np.asarray(array[part])


def check_finite(samples: Samples, split: str) -> None:
    """Raise DataError for the first sample that holds NaN or Inf in a modality that it has.

    Parameters
    ----------
    samples
        Any samples, as they are stored.
    split
        Theirs, for the message.
    """
    for column, modality in enumerate(samples.modalities):
        if not np.issubdtype(np.dtype(modality.dtype), np.floating):
            continue

        has = samples.rows[samples.has[samples.rows, column]]
        for rows, values in chunks(samples.arrays[modality.name], has):
            bad = rows[~np.isfinite(values.reshape(len(rows), -1)).all(axis=1)]
            if len(bad):
                row, source = int(bad[0]), str(samples.sources[bad[0]])
                raise DataError(
                    f"{modality.name} of sample {row} of the {split} split (row {row + 2} of "
                    f"samples.csv, of {source!r}) holds NaN or Inf; mend it or leave it out, and "
                    "prepare the data again. `fedcmi inspect` counts all such samples."
                )
