"""Files of numbers, CSV or NPY, as arrays: what series and vectors are made of."""

import csv
import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UnreadableFileError

_LONGEST_CELL = 1 << 30
_LARGE_BYTES = 1 << 26
"""A larger NPY file is not read whole."""
_CHUNK = 1 << 22
"""Numbers of it that are read at a time."""
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE
)


def read_numbers(
    path: Path, what: str, axes: str, *, header: bool | None = None
) -> tuple[list[str] | None, NDArray[Any]]:
    """Read the numbers of a file.

    Parameters
    ----------
    path
        An NPY file, by its content, with one or two axes; anything else is read as CSV.
    what
        What it should be, for messages: "series", "vector".
    axes
        Of what it should be, for messages: "[time, channels]".
    header
        Whether the first row of CSV has names; None: where none of its cells is a number, and
        ``0,1,2`` is refused since it may be either. A first column without a name is an index,
        and refused, unless there is no header.

    Returns
    -------
    The header, None where there is none; and the numbers, all finite, one or two axes: float64,
    but of a large NPY file as they are there, and memory-mapped.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, ragged, not numbers, or not finite.
    """
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the archive.")

    try:
        names, numbers = (None, read_npy(path)) if _is_npy(path) else _read_csv(path, header)
        if numbers.ndim not in (1, 2) or not numbers.size or numbers.dtype.kind not in "fiub":
            raise ValueError(f"{numbers.dtype} of shape {numbers.shape}, expected numbers {axes}")
        if not _is_finite(path, numbers):
            raise ValueError("holds numbers that are infinite or missing")
    except (ValueError, EOFError, csv.Error) as error:
        raise UnreadableFileError(path, f"not a {what} ({error}); write it again.") from error

    return names, numbers if isinstance(numbers, np.memmap) else numbers.astype(np.float64)


def is_number(text: str) -> bool:
    """Return whether a cell is a number as programs write it, NaN and infinity included."""
    return _NUMBER.fullmatch(text) is not None


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read_npy(path: Path) -> NDArray[Any]:
    """Read an NPY file, or map a large one, of which memory then holds what is looked at.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    The array, of any shape and type but objects.

    Raises
    ------
    ValueError
        It is no NPY file, shorter than its header says, or of objects, which would have to be
        unpickled.
    """
    try:
        # So that a header alone takes no memory
        mapped = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError):
        raise
    except Exception as error:  # of many kinds: NumPy evaluates the header
        raise ValueError(f"its header is damaged: {error}") from error

    return np.asanyarray(mapped) if path.stat().st_size > _LARGE_BYTES else np.array(mapped)


def _is_finite(path: Path, numbers: NDArray[Any]) -> bool:
    """Return whether all numbers are finite.

    Those of a mapped file are read, so that they do not stay in memory.
    """
    if not isinstance(numbers, np.memmap):
        return bool(np.isfinite(numbers).all())
    if numbers.dtype.kind != "f":
        return True

    with path.open("rb") as file:
        file.seek(numbers.offset)
        left = numbers.size
        while left > 0:
            part = np.fromfile(file, numbers.dtype, min(left, _CHUNK))
            if not np.isfinite(part).all():
                return False

            left -= len(part)

    return True


def _read_csv(path: Path, stated: bool | None) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Read a table, with a header as it is stated or as its first row says; it is never guessed."""
    csv.field_size_limit(_LONGEST_CELL)
    names, width, count = None, 0, 0
    numbers = array("d")
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in filter(None, csv.reader(file)):
            cells = [cell.strip() for cell in row]
            if not width and names is None and _is_header(cells, stated):
                names = cells
                continue

            count, width = count + 1, width or len(cells)
            if len(cells) != width:
                raise ValueError(f"row {count} has {len(cells)} cells, row 1 has {width}")
            if names is not None and len(names) != width:
                raise ValueError(f"its header has {len(names)} names, row 1 has {width} cells")

            numbers.extend(
                _number(cell, f"row {count}, column {column}")
                for column, cell in enumerate(cells, 1)
            )

    return names, np.array(numbers).reshape(count, width)


def _is_header(cells: list[str], stated: bool | None) -> bool:
    """Return whether a first row names columns.

    ValueError where it may be either, or names an index.
    """
    if stated is False:
        return False

    numeric = [is_number(cell) for cell in cells]
    if len(cells) > 1 and not cells[0] and not any(numeric[1:]) and all(cells[1:]):
        raise ValueError(
            "its first column has no name, as an index that pandas wrote; write it without "
            "(index=False)"
        )
    if stated:
        return True
    if cells == [str(number) for number in range(len(cells))] and len(cells) > 1:
        raise ValueError(
            f"its first row, {','.join(cells)}, may be data or numbers of columns; say --header "
            "yes or no, or write names into it"
        )
    if any(numeric) and not all(numeric):
        raise ValueError(
            f"its first row, {','.join(cells)}, is neither all numbers nor all names; say "
            "--header yes or no"
        )

    return not any(numeric)


def _number(cell: str, where: str) -> float:
    if not is_number(cell):
        raise ValueError(f"{where}: {cell!r} is no number")
    return float(cell)
