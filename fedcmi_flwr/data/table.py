"""``samples.csv`` of a split, read without pandas, which takes a second to import in every process
of a federation.
"""

import csv
from pathlib import Path


def read_columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV file with a header, as texts; empty lines are passed over.

    Parameters
    ----------
    path
        In UTF-8.

    Returns
    -------
    Name -> a text for every row.

    Raises
    ------
    ValueError
        No header, a column that comes twice, or a row of another length; the text names its line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if not header or len(set(header)) < len(header):
                raise ValueError(f"{path}, line 1: column names are needed, each once")

            rows = []
            for row in filter(None, lines):
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: {len(row)} cells under {len(header)} "
                        "columns"
                    )
                rows.append(row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from error

    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return {name: list(column) for name, column in zip(header, columns, strict=True)}
