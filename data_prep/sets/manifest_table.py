"""A manifest as its user wrote it.

Rows read from CSV or Parquet, and checked before any file is opened.
"""

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError
from data_prep.media.table import known
from fedcmi_flwr.types import Modality

REQUIRED = ("id", "label", "split")
OWN_COLUMNS = (*REQUIRED, "group")
"""Columns that are no modality; ``group`` may be left out, and is the id then."""
SPLITS = ("train", "val", "test")
_LONGEST_CELL = 1 << 30

_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class Entry:
    """One row of a manifest."""

    where: str
    """For messages: file, row and id."""
    place: str
    """For the sample table: file name and row."""
    id: str
    label: str
    split: str
    group: str
    cells: Mapping[str, str]
    """Column -> what stands there, of those that are not empty: a path, the text itself, a
    number or a category."""


def read_manifest(
    path: Path, needed: Sequence[str], splits: Sequence[str] = ("train", "test")
) -> list[Entry]:
    """Read a manifest and check everything that can be checked row by row.

    Parameters
    ----------
    path
        Parquet, or anything else as CSV: commas, UTF-8, a header. Rows are counted from 1, below
        the header.
    needed
        Names of the columns that hold paths, texts, numbers or categories. A cell that is empty,
        or holds one of :data:`data_prep.media.table.MISSING`, is something that the sample
        lacks.
    splits
        Those that must have rows.

    Returns
    -------
    The rows in the order of the file; columns that are neither known nor needed are not looked at.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    PrepError
        Missing columns, empty cells where there must be none, ids that occur twice, unknown
        splits, samples that lack everything, or a file that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, expected a manifest, CSV or Parquet.")

    columns, rows = _read(path, [*OWN_COLUMNS, *needed])
    for column in (*REQUIRED, *needed):
        if columns.count(column) != 1:
            found = "is missing" if column not in columns else "occurs more than once"
            raise PrepError(f"{path}: column {column!r} {found}, found {columns}.")

    seen: dict[str, int] = {}
    entries = []
    for number, cells in enumerate(rows, start=1):
        entry = _entry(path, number, dict(zip(columns, cells, strict=True)), needed)
        if entry.id in seen:
            raise PrepError(
                f"{entry.where}, column 'id': row {seen[entry.id]} has this id too; ids must "
                "differ."
            )

        seen[entry.id] = number
        entries.append(entry)

    for split in splits:
        if all(entry.split != split for entry in entries):
            raise PrepError(
                f"{path}, column 'split': no row is {split!r}; needed are {' and '.join(splits)}."
            )

    return entries


def manifest_columns(path: Path) -> list[str]:
    """Return the names of a manifest's columns; raises as :func:`read_manifest`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, expected a manifest, CSV or Parquet.")
    return _parquet_columns(path) if _is_parquet(path) else _read_csv(path)[0]


def _read(path: Path, needed: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    return _read_parquet(path, needed) if _is_parquet(path) else _read_csv(path)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    csv.field_size_limit(_LONGEST_CELL)
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in _numbered(path, csv.reader(file, strict=True)) if row]
    except UnicodeDecodeError as error:
        raise PrepError(
            f"{path}: not UTF-8 at byte {error.start} ({error.reason}); save it as UTF-8."
        ) from error

    if not rows:
        raise PrepError(
            f"{path}: an empty file, expected a header with {', '.join(REQUIRED)} and modalities."
        )

    header = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise PrepError(
                f"{path}: row {number} has {len(row)} cells, the header {len(header)}; quote "
                "cells with commas."
            )

    return header, rows[1:]


def _numbered(path: Path, reader: Any) -> Iterator[list[str]]:  # noqa: ANN401 (csv names no type)
    """Yield rows; an error says at which line the row begins, and why it is none."""
    begin = 1
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PrepError(
                f"{path}: the row that begins at line {begin} is no CSV ({error}); a quote inside "
                "a cell is written twice, and the cell in quotes."
            ) from error

        begin = reader.line_num + 1


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise PrepError(f"{path}: not readable as Parquet ({error}); save it again.") from error


def _read_parquet(path: Path, needed: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    import pyarrow
    from pyarrow import parquet

    names = [name for name in dict.fromkeys(_parquet_columns(path)) if name in needed]

    try:
        table = parquet.read_table(path, columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        raise PrepError(f"{path}: not readable as Parquet ({error}); save it again.") from error

    columns = [
        [
            _to_text(f"{path}: row {row}, column {name!r}", value)
            for row, value in enumerate(table[name].to_pylist(), 1)
        ]
        for name in table.column_names
    ]

    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)]


def _to_text(where: str, value: object) -> str:
    """Return a cell as CSV would hold it."""
    if value is None or value != value:  # not equal to itself: not a number
        return ""

    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PrepError(
                f"{where}: bytes that are no UTF-8 text ({error.reason}); store text."
            ) from error

    if isinstance(value, list | dict | tuple):
        raise PrepError(
            f"{where}: a {type(value).__name__}, {value!r:.60}; store one text, path or number a "
            "cell."
        )

    return str(value)


def _entry(path: Path, number: int, cells: Mapping[str, str], needed: Sequence[str]) -> Entry:
    where = f"{path}: row {number} (id {cells['id'].strip()!r})"
    cells = {column: known(cell) for column, cell in cells.items()}
    own = {column: cells.get(column, "") for column in OWN_COLUMNS}

    for column in REQUIRED:
        if not own[column]:
            raise PrepError(
                f"{where}, column {column!r}: empty or missing, must be given for every sample."
            )

    if own["split"] not in SPLITS:
        raise PrepError(
            f"{where}, column 'split': {own['split']!r} is not one of {', '.join(SPLITS)}."
        )

    has = {name: cells[name] for name in needed if cells[name]}
    if not has:
        raise PrepError(f"{where}: has none of {', '.join(needed)}; remove the row.")

    place = f"{path.name}:{number}"

    return Entry(
        where, place, own["id"], own["label"], own["split"], own["group"] or own["id"], has
    )


def find_file(raw: Path, entry: Entry, modality: Modality) -> Path:
    """Return the file that a cell names.

    Parameters
    ----------
    raw
        What paths are relative to.
    entry
        The row.
    modality
        The column.

    Returns
    -------
    An existing file below ``raw``; links are followed wherever they lead.

    Raises
    ------
    PrepError
        The path leaves ``raw``, or there is no such file.
    """
    cell = entry.cells[modality]
    where = f"{entry.where}, column {modality!r}"
    plain = posixpath.normpath(cell)
    if plain.startswith("/") or plain.split("/")[0] == "..":
        raise PrepError(f"{where}: {cell!r} leaves {raw}; give paths relative to it and below it.")

    file = raw.resolve() / plain
    if not file.is_file():
        raise PrepError(
            f"{where}: {raw / plain} is not there; complete the files, or leave the cell empty."
        )

    return file


def class_names(
    entries: Sequence[Entry],
    wanted: Sequence[str] | None,
    *,
    is_whole: bool = True,
    where: str = "",
) -> tuple[str, ...]:
    """Return the classes in index order, and check that the train split has what the others have.

    Parameters
    ----------
    entries
        All rows.
    wanted
        Names in the order to be used; None: sorted, as numbers where all labels are integers.
    is_whole
        Whether the rows are all that there is to train and test on; else ``wanted`` may name
        more, and there may be classes that are not trained here.
    where
        Where ``wanted`` stands, for the message.

    Returns
    -------
    Two or more names.

    Raises
    ------
    PrepError
        Less than two labels, ``wanted`` names other ones than the rows, or a label that no train
        sample has.
    """
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.label, entry)

    trained = {entry.label for entry in entries if entry.split == "train"}
    for label, entry in first.items():
        if wanted is not None and label not in wanted:
            raise PrepError(
                f"{entry.where}, column 'label': {label!r} is not one of the classes "
                f"{list(wanted)}{where}."
            )
        if is_whole and label not in trained:
            raise PrepError(
                f"{entry.where}, column 'label': no sample of the train split is {label!r}."
            )

    if wanted is not None and (
        len(set(wanted)) != len(wanted) or (is_whole and set(wanted) != set(first))
    ):
        raise PrepError(
            f"classes {list(wanted)}: must be each label of the manifest once, {sorted(first)}."
        )

    names = list(first) if wanted is None else list(wanted)
    if len(names) < 2:
        advice = "" if is_whole else "; name all classes of the federation as --classes"
        raise PrepError(f"all labels are {names}: there must be two or more classes{advice}.")

    if wanted is not None:
        return tuple(names)

    numeric = all(_INTEGER.fullmatch(label) for label in names)

    return tuple(sorted(names, key=lambda label: (int(label), label) if numeric else (0, label)))
