"""What the columns of a manifest's table hold.

Numbers and what they are standardised by, or categories.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from data_prep.errors import PrepError
from data_prep.media.numbers import is_number
from data_prep.media.table import OTHER, CellError, Table, number
from data_prep.pipeline.assembly import ROUNDING
from data_prep.pipeline.plan import MeanStd
from data_prep.sets.manifest_kinds import features_of, kind_of
from data_prep.sets.manifest_table import Entry
from fedcmi_flwr.types import Modality

MOST = 100
"""Categories of a column that was not named: one with more may be a text or an id."""
Chosen = Mapping[str, tuple[str, ...]]
"""Column of categories -> which, OTHER last where it takes all others; none: those of the data."""


def parse_categories(
    options: Sequence[str], modalities: Mapping[Modality, str]
) -> dict[str, tuple[str, ...]]:
    """Read what ``--categories`` gives.

    Parameters
    ----------
    options
        "COLUMN": it holds categories, those of the train split. "COLUMN=A,B": it holds these.
        "COLUMN=A,B,..." and "COLUMN=...": the same, and whatever else comes is one category more.
    modalities
        From :func:`data_prep.sets.manifest_kinds.parse_modalities`.

    Returns
    -------
    Column -> what is said of it.

    Raises
    ------
    PrepError
        Something else, or a column that is in no table.

    Examples
    --------
    >>> parse_categories(["ward", "sex=f,m,..."], {"lab": "table:age,sex,ward"})
    {'ward': (), 'sex': ('f', 'm', '...')}
    """
    tables = [
        column
        for kind in modalities.values()
        if kind_of(kind) == "table"
        for column in features_of(kind)
    ]
    found: dict[str, tuple[str, ...]] = {}
    for option in options:
        column, equals, listed = option.partition("=")
        names = tuple(name.strip() for name in listed.split(",")) if equals else ()
        if not all(names) or len(set(names)) < len(names) or OTHER in names[:-1] or column in found:
            raise PrepError(
                f"categories {option!r}: must be COLUMN, or COLUMN=A,B with each name once and "
                f"{OTHER} last if at all."
            )
        if column not in tables:
            raise PrepError(
                f"categories {option!r}: {column!r} is a column of no table, only {tables} are."
            )

        found[column] = names

    return found


def measure_table(
    entries: Sequence[Entry], columns: Sequence[str], chosen: Chosen
) -> tuple[Table, MeanStd]:
    """Find out what the columns of a table hold.

    A column is numeric where all of its cells are numbers, and categorical where none is; one with
    both is refused unless it was said to hold categories. Categories, means and deviations are
    those of the train split, or of all rows where there is none.

    Parameters
    ----------
    entries
        The rows of the manifest.
    columns
        Of the table, in stored order.
    chosen
        From :func:`parse_categories`.

    Returns
    -------
    The table, and what its features are normalised by: numbers are standardised, categories and
    masks stay 0 and 1.

    Raises
    ------
    PrepError
        A column without any cell, of numbers and words, or of too many categories, or a table that
        never changes.
    """
    trained = [entry for entry in entries if entry.split == "train"] or list(entries)
    means, stds, categories = dict[str, float](), dict[str, float](), dict[str, tuple[str, ...]]()
    for column in columns:
        if column in chosen or not _is_numeric(entries, column):
            categories[column] = _categories(trained, column, chosen.get(column))
        else:
            means[column], stds[column] = _mean_std(trained, column)

    table = Table(tuple(columns), means, categories)
    rows = (entry.cells for entry in trained if any(column in entry.cells for column in columns))
    if len({table.encode(cells) for cells in rows}) < 2:
        raise PrepError(
            f"the columns {list(columns)} never change in the train split: there is nothing to "
            "learn from."
        )

    return table, (table.by_column(means, 0.0), table.by_column(stds, 1.0))


def _is_numeric(entries: Iterable[Entry], column: str) -> bool:
    """Return whether a column holds numbers alone.

    PrepError where it holds words too, or nothing.
    """
    first: dict[bool, Entry] = {}
    for entry in entries:
        if column in entry.cells:
            first.setdefault(is_number(entry.cells[column]), entry)

    if not first:
        raise PrepError(
            f"column {column!r}: all cells are empty, and nothing else says what it holds; leave "
            f"it out, or name its categories, --categories {column}=A,B."
        )

    if len(first) > 1:
        numeric, word = first[True], first[False]
        raise PrepError(
            f"{word.where}, column {column!r}: {word.cells[column]!r} is no number, but "
            f"{numeric.cells[column]!r} of {numeric.place} is; correct or empty the cell, or say "
            f"--categories {column} where the numbers are names."
        )

    return True in first


def _categories(
    trained: Iterable[Entry], column: str, chosen: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return a column's categories in stored order: as named, or those that occur, sorted."""
    if chosen and chosen != (OTHER,):
        return chosen

    found = sorted({entry.cells[column] for entry in trained if column in entry.cells} - {OTHER})
    if chosen is None and len(found) > MOST:
        raise PrepError(
            f"column {column!r}: holds {len(found)} different words; a text is a modality of its "
            f"own, NAME=text, and an id tells nothing of other samples. Say --categories {column} "
            "if they are categories."
        )

    names = (*found, *(chosen or ()))
    if not names:
        raise PrepError(
            f"column {column!r}: no train cell holds a category; name them, --categories "
            f"{column}=A,B."
        )

    return names


def _mean_std(trained: Iterable[Entry], column: str) -> tuple[float, float]:
    """Return mean and standard deviation of the cells that are there; 1 for what never changes."""
    values = []
    for entry in trained:
        try:
            value = number(column, entry.cells.get(column, ""))
        except CellError as error:
            raise PrepError(f"{entry.where}, {error}") from error

        if value is not None:
            values.append(value)

    if not values:
        raise PrepError(
            f"column {column!r}: no train cell holds a number, so there is nothing to standardise "
            "by."
        )

    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))

    return mean, std if std > ROUNDING * abs(mean) else 1.0
