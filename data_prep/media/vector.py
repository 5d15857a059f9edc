"""Feature vectors, from a file or from cells of a table to the stored array.

No value is ever filled in.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.numbers import read_numbers
from data_prep.pipeline.plan import MEASURED, Stream
from fedcmi_flwr.types import Modality

Cells = tuple[str, tuple[float, ...]]
"""Where cells stand, for messages; and their numbers, NaN where a cell is empty."""


def read_vector(
    path: Path, columns: Sequence[str] | None = None, header: bool | None = None
) -> Float[np.ndarray, " features"]:
    """Read the numbers of a file that holds one sample.

    Parameters
    ----------
    path
        ``.npy`` with [features]; anything else is read as CSV, one row or one column, with or
        without a header.
    columns
        Names of the features; a header must have them all, in any order and beside others. None:
        all that is there.
    header
        As for :func:`data_prep.media.numbers.read_numbers`.

    Returns
    -------
    [features], float64.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, more than one sample, not numbers, not finite, or
        lacks a column.
    """
    names, numbers = read_numbers(path, "vector", "[features]", header=header)
    if numbers.size != max(numbers.shape):
        raise UnreadableFileError(
            path, f"numbers of shape {list(numbers.shape)}; give one row, the sample's."
        )

    vector = np.asarray(numbers, np.float64).ravel()
    if columns is None or names is None:
        return vector

    absent = [name for name in columns if name not in names]
    if absent:
        raise UnreadableFileError(
            path, f"has no column {absent[0]!r}, only {names}; write it again."
        )

    return vector[[names.index(name) for name in columns]]


def decode_vector(
    path: str, features: int, columns: Sequence[str] | None = None, header: bool | None = None
) -> Float[np.ndarray, " features"]:
    """Return the vector of a path as jobs hold it.

    UnreadableFileError for another number of features.
    """
    vector = read_vector(Path(path), columns, header)
    if len(vector) != features:
        raise UnreadableFileError(Path(path), f"{len(vector)} features, expected are {features}.")

    return vector


def read_cells(where: str, place: str, cells: Sequence[tuple[str, str]]) -> Cells | None:
    """Read the cells of a vector; an empty one, and NaN, are values that are missing.

    Parameters
    ----------
    where
        The row, for an error.
    place
        The row, as a sample table names it.
    cells
        (column, text) of each feature.

    Returns
    -------
    What :func:`decode_cells` takes; None where every value is missing: the sample lacks the
    modality.

    Raises
    ------
    PrepError
        A cell that is something else than a finite number.
    """
    values = []
    for column, text in cells:
        try:
            value = float(text) if text else math.nan
        except ValueError:
            value = math.inf

        if math.isinf(value):
            raise PrepError(
                f"{where}, column {column!r}: {text!r} is no finite number; correct or empty the "
                "cell."
            )

        values.append(value)

    return None if all(math.isnan(value) for value in values) else (place, tuple(values))


def decode_cells(cells: Cells, columns: Sequence[str]) -> Float[np.ndarray, " features"]:
    """Return the vector of cells; UnreadableFileError where some of them, not all, are empty."""
    place, values = cells
    empty = [column for column, value in zip(columns, values, strict=True) if math.isnan(value)]
    if empty:
        raise UnreadableFileError(
            Path(place),
            f"{', '.join(empty[:5])} missing beside values of the same vector; fill in or empty "
            "all of it.",
        )

    return np.array(values)


def vector_stream(
    name: Modality, features: int, columns: Sequence[str] | None = None, header: bool | None = None
) -> Stream:
    """Return the stream of a modality of feature vectors.

    Parameters
    ----------
    name
        Of the modality.
    features
        Of every vector.
    columns
        Names of the features, where they are cells of a table: jobs are of :func:`read_cells`.
        None: jobs are paths.
    header
        As for :func:`read_vector`.

    Returns
    -------
    Vectors [features], float32, normalised by what the train split measures, feature by feature.
    """
    recipe: dict[str, Any] = {
        "maker": "vector",
        "features": features,
        "columns": None if columns is None else list(columns),
    }
    recipe |= {} if header is None else {"header": header}
    decode: Any = functools.partial(decode_vector, features=features, header=header)
    if columns is not None:
        decode = functools.partial(decode_cells, columns=tuple(columns))

    return Stream(name, "vector", (features,), "float32", decode, recipe, MEASURED)
