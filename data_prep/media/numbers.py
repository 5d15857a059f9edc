"""Files of numbers, CSV or NPY, as arrays: what series and vectors are made of."""

import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UnreadableFileError

_LONGEST_CELL = 1 << 30
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE)


def read_numbers(path: Path, what: str, axes: str) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Read the numbers of a file.

    Parameters
    ----------
    path
        An NPY file, by its content, with one or two axes; anything else is read as CSV. Its first row is a header where
        none of its cells is a number; ``0,1,2``, and an unnamed first column, are refused as ambiguous.
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
        header, numbers = (None, np.load(path, allow_pickle=False)) if _is_npy(path) else _read_csv(path)
        if numbers.ndim not in (1, 2) or not numbers.size or numbers.dtype.kind not in "fiub":
            raise ValueError(f"{numbers.dtype} of shape {numbers.shape}, expected numbers {axes}")
        if not np.isfinite(numbers).all():
            raise ValueError("holds numbers that are infinite or missing")
    except (ValueError, EOFError, csv.Error) as error:
        raise UnreadableFileError(path, f"not a {what} ({error}); write it again.") from error
    return header, numbers.astype(np.float64)


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _read_csv(path: Path) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Read a table; its first row is a header where no cell is a number, and never guessed otherwise."""
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    header = rows.pop(0) if rows and _is_header(rows[0]) else None
    numbers = [
        [_number(cell, f"row {row}, column {column}") for column, cell in enumerate(cells, 1)]
        for row, cells in enumerate(rows, 1)
    ]
    ragged = next((row for row, cells in enumerate(numbers, 1) if len(cells) != len(numbers[0])), None)
    if ragged is not None:
        raise ValueError(f"row {ragged} has {len(numbers[ragged - 1])} cells, row 1 has {len(numbers[0])}")
    return header, np.array(numbers)


def _is_header(cells: list[str]) -> bool:
    """Return whether a first row names columns; ValueError where it may be either, or names an index."""
    numeric = [_NUMBER.fullmatch(cell) is not None for cell in cells]
    if len(cells) > 1 and not cells[0] and not any(numeric[1:]) and all(cells[1:]):
        raise ValueError("its first column has no name, as an index that pandas wrote; write it without (index=False)")
    if cells == [str(number) for number in range(len(cells))] and len(cells) > 1:
        raise ValueError(
            f"its first row, {','.join(cells)}, may be data or numbers of columns; write names into it, or no header"
        )
    if any(numeric) and not all(numeric):
        raise ValueError(f"its first row, {','.join(cells)}, is neither all numbers nor all names")
    return not any(numeric)


def _number(cell: str, where: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"{where}: {cell!r} is no number")
    return float(cell)
