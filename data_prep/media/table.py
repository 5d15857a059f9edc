"""Cells of a table, numbers and categories, from a row to the stored vector.

A vector holds the columns one after another, and behind each a mask that is 1 where its cell is
missing. A number is one value: what stands in the cell, or the mean where it is missing, which is
0 once it is standardised. A category is as many values as its column has categories (one-hot): 1
for its own and 0 for the others, or 0 for all where it is missing.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.numbers import is_number
from data_prep.pipeline.plan import MeanStd, Stream
from fedcmi_flwr.data.schema import Recipe
from fedcmi_flwr.types import Modality

MISSING = ("", "nan", "NaN", "NAN", "None", "NA", "N/A", "n/a", "<NA>", "null", "NULL", "#N/A")
"""What a missing cell holds, in any column, as programs write it; spaces around it do not count."""
OTHER = "..."
"""The last category of a column that takes what is none of the others."""


class CellError(ValueError):
    """A cell that its column cannot take; the message has both, and what to do."""


@dataclass(frozen=True)
class Table:
    """What the columns of a table are; the same on every machine of a federation.

    Raises
    ------
    PrepError
        A column that is neither numeric nor categorical, or both.
    """

    columns: tuple[str, ...]
    """In stored order."""
    fill: Mapping[str, float]
    """Numeric column -> its mean, which is stored where a cell is missing."""
    categories: Mapping[str, tuple[str, ...]]
    """Categorical column -> its categories in stored order; OTHER may be the last."""

    def __post_init__(self) -> None:
        """Check that every column is of one sort."""
        if sorted(self.columns) != sorted([*self.fill, *self.categories]):
            raise PrepError(
                f"table of {list(self.columns)}: {list(self.fill)} are its numbers and "
                f"{list(self.categories)} its categories; each column must be one of them."
            )

    @staticmethod
    def of(recipe: Recipe) -> "Table":
        """Return the table that a recipe describes."""
        categories = {column: tuple(names) for column, names in recipe["categories"].items()}
        return Table(tuple(recipe["columns"]), dict(recipe["fill"]), categories)

    def recipe(self) -> dict[str, Any]:
        """Return what :meth:`of` reads, as JSON may hold it."""
        categories = {column: list(names) for column, names in self.categories.items()}
        return {
            "maker": "table",
            "columns": list(self.columns),
            "fill": dict(self.fill),
            "categories": categories,
        }

    @property
    def features(self) -> int:
        """Values of a stored vector."""
        return sum(len(self.categories.get(column, ("",))) + 1 for column in self.columns)

    def by_column(self, values: Mapping[str, float], otherwise: float) -> tuple[float, ...]:
        """Return a value by feature: the numeric columns' own, another for categories and masks."""
        found = list[float]()
        for column in self.columns:
            if column in self.fill:
                found += [values[column], otherwise]
            else:
                found += [otherwise] * (len(self.categories[column]) + 1)

        return tuple(found)

    def encode(self, cells: Mapping[str, str]) -> tuple[float, ...]:
        """Return the stored vector of a row.

        Parameters
        ----------
        cells
            Column -> what stands there; nothing, or a text of MISSING, is a cell that is missing.

        Returns
        -------
        ``features`` values.

        Raises
        ------
        CellError
            A cell that is no finite number, or none of its column's categories.

        Examples
        --------
        >>> table = Table(("age", "sex"), {"age": 50.0}, {"sex": ("f", "m")})
        >>> table.encode({"age": "63", "sex": "m"})
        (63.0, 0.0, 0.0, 1.0, 0.0)
        >>> table.encode({"sex": "f"})
        (50.0, 1.0, 1.0, 0.0, 0.0)
        """
        found = list[float]()
        for column in self.columns:
            text = known(cells.get(column, ""))
            if column in self.categories:
                names, start = self.categories[column], len(found)
                found += [0.0] * (len(names) + 1)
                found[start + _place(column, text, names)] = 1.0
            else:
                value = number(column, text)
                found += [self.fill[column], 1.0] if value is None else [value, 0.0]

        return tuple(found)


def known(cell: str) -> str:
    """Return what a cell holds, nothing for one that is missing."""
    stripped = cell.strip()
    return "" if stripped in MISSING else stripped


def number(column: str, text: str) -> float | None:
    """Return the number in a cell; None for NaN and an empty one; CellError for anything else."""
    if not text:
        return None

    value = float(text) if is_number(text) else math.inf
    if math.isinf(value):
        raise CellError(
            f"column {column!r}: {text!r} is no finite number; correct or empty the cell."
        )

    return None if math.isnan(value) else value


def _place(column: str, text: str, names: Sequence[str]) -> int:
    """Return the place of a category among a column's; behind all of them for a missing cell."""
    if not text or text in names:
        return names.index(text) if text else len(names)
    if names[-1:] == (OTHER,):
        return len(names) - 1

    raise CellError(
        f"column {column!r}: {text!r} is none of its categories {list(names)}; correct the cell, "
        "or prepare all of the federation's data with --categories "
        f"{column}={','.join(names)},{OTHER} where {OTHER} takes what is unknown."
    )


def read_row(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Read a CSV file with the cells of one sample.

    Parameters
    ----------
    path
        A header with the columns, in any order and beside others, and one row.
    columns
        Those that are needed.

    Returns
    -------
    Column -> what stands there.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it has another number of rows, lacks a column, or no cell holds
        anything.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True) if row]
    except FileNotFoundError as error:
        raise UnreadableFileError(path, "not found; complete the files.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(path, f"not a table in CSV ({error}); write it again.") from error

    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        lengths = f"{len(rows)} rows of {sorted({len(row) for row in rows})} cells"
        raise UnreadableFileError(
            path, f"{lengths}; give a header and one row, the sample's, of the same length."
        )

    wrong = [column for column in columns if rows[0].count(column) != 1]
    if wrong:
        raise UnreadableFileError(
            path,
            f"must have column {wrong[0]!r} once, found {rows[0]}; leave a cell empty that is not "
            "known.",
        )

    cells = dict(zip(*rows, strict=True))
    if not any(known(cells[column]) for column in columns):
        raise UnreadableFileError(
            path, f"all cells of {', '.join(columns)} are empty; leave the file out."
        )

    return cells


def decode_row(path: Path, table: Table) -> Float[np.ndarray, " features"]:
    """Return the vector of a file's row; UnreadableFileError where a cell of it cannot be used."""
    cells = read_row(path, table.columns)
    try:
        return np.array(table.encode(cells))
    except CellError as error:
        raise UnreadableFileError(path, str(error)) from error


def table_stream(name: Modality, table: Table, mean_std: MeanStd = (0.0, 1.0)) -> Stream:
    """Return the stream of a modality of tables; its jobs are vectors, of :meth:`Table.encode`.

    Parameters
    ----------
    name
        Of the modality.
    table
        Its columns.
    mean_std
        What its features are normalised by.

    Returns
    -------
    Vectors [features], float32.
    """
    return Stream(name, "vector", (table.features,), "float32", np.array, table.recipe(), mean_std)
