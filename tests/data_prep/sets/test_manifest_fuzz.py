"""Any manifest: its cells are what pandas reads, under the rule for what is missing.

Or there is a clear error.
"""

import csv
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.errors import PrepError
from data_prep.media.table import MISSING
from data_prep.sets.manifest_table import read_manifest

NEEDED = ("note", "more")
COLUMNS = ("id", "label", "split", *NEEDED)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)
CELLS = st.one_of(
    WORDS,
    st.sampled_from([*MISSING, " NA ", "a,b", 'say "hi"', "two\nlines", "\u2028", "0", "nan1"]),
)
ROWS = st.lists(
    st.tuples(WORDS, CELLS, st.sampled_from(["train", "test", "val", " test"]), CELLS, CELLS),
    max_size=5,
)


def rule(cell: str) -> str:
    """Return what a cell says: nothing where it is one of the words for that."""
    stripped = cell.strip()
    return "" if stripped in MISSING else stripped


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS, is_parquet=st.booleans())
@example(rows=[("a", "x", "train", "NA", "b"), ("b", "nan", "test", "x", "")], is_parquet=False)
def test_cells_are_what_pandas_reads(
    tmp_path: Path, rows: list[tuple[str, ...]], is_parquet: bool
) -> None:
    path = tmp_path / "m"
    if is_parquet:
        table = pd.DataFrame(rows, columns=COLUMNS, dtype=str)
        table.to_parquet(path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    expected = [{name: rule(row[name]) for name in COLUMNS} for row in table.to_dict("records")]
    ids = [row["id"] for row in expected]
    is_whole = all(row["label"] and row["id"] and (row["note"] or row["more"]) for row in expected)
    is_usable = (
        is_whole
        and len(set(ids)) == len(ids)
        and {"train", "test"} <= {row["split"] for row in expected}
    )
    try:
        entries = read_manifest(path, NEEDED)
    except PrepError as error:
        assert str(path) in str(error)
        assert not is_usable
        return
    found = [
        {"id": e.id, "label": e.label, "split": e.split, "note": "", "more": "", **e.cells}
        for e in entries
    ]
    assert is_usable
    assert found == expected
