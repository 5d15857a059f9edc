"""Files of numbers, CSV or NPY, as arrays: what series and vectors are made of."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UnreadableFileError


def read_numbers(path: Path, what: str, axes: str) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Read the numbers of a file.

    Parameters
    ----------
    path
        ``.npy`` with one or two axes; anything else is read as CSV, of which the first row may be a header.
    what
        What it should be, for messages: "series", "vector".
    axes
        Of what it should be, for messages: "[time, channels]".

    Returns
    -------
    The header, None where there is none; and the numbers, all finite, one or two axes.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, ragged, not numbers, or not finite.
    """
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the archive.")
    try:
        header, numbers = (None, np.load(path, allow_pickle=False)) if path.suffix == ".npy" else _read_csv(path)
        if numbers.ndim not in (1, 2) or not numbers.size or numbers.dtype.kind not in "fiub":
            raise ValueError(f"{numbers.dtype} of shape {numbers.shape}, expected numbers {axes}")
        if not np.isfinite(numbers).all():
            raise ValueError("holds numbers that are infinite or missing")
    except (ValueError, EOFError, csv.Error) as error:
        raise UnreadableFileError(path, f"not a {what} ({error}); write it again.") from error
    return header, numbers.astype(np.float64)


def _read_csv(path: Path) -> tuple[list[str] | None, NDArray[np.float64]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [cell.strip() for cell in rows.pop(0)] if rows and not _is_numeric(rows[0]) else None
    return header, np.array([[float(cell) for cell in row] for row in rows])


def _is_numeric(row: list[str]) -> bool:
    try:
        return [float(cell) for cell in row] != []
    except ValueError:
        return False
