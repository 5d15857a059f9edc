"""data_prep.sets.manifest_table: what a cell says, whatever program wrote it.

And names that are not to be had.
"""

from pathlib import Path

import pandas as pd
import pytest

from data_prep.errors import PrepError
from data_prep.media.table import MISSING
from data_prep.sets.manifest_kinds import parse_modalities
from data_prep.sets.manifest_table import Entry, read_manifest
from fedcmi_flwr.data.prepared import DataError

COLUMNS = {
    "id": ["a", "b"],
    "label": ["x", "y"],
    "split": ["train", "test"],
    "note": ["hello", "you"],
}


def entries(path: Path, **columns: list[object]) -> list[Entry]:
    pd.DataFrame({**COLUMNS, **columns}).to_parquet(path)
    return read_manifest(path, ["note"])


def test_bytes_are_text_and_a_parquet_file_is_one_by_its_content(tmp_path: Path) -> None:
    found = entries(
        tmp_path / "m.table", label=[b"x", b"y"], note=[b" hello ", b"you"], extra=[[1], [2]]
    )
    assert [(entry.label, dict(entry.cells)) for entry in found] == [
        ("x", {"note": "hello"}),
        ("y", {"note": "you"}),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["hello", "you"], "a list, "),
        ({"a": 1}, "a dict, "),
        (b"\xff", "bytes that are no UTF-8 text"),
    ],
)
@pytest.mark.parametrize("column", ["note", "label"])
def test_cells_that_hold_no_single_value_are_refused(
    tmp_path: Path, value: object, words: str, column: str
) -> None:
    with pytest.raises(PrepError, match=rf"m\.parquet: row 1, column '{column}': {words}"):
        entries(tmp_path / "m.parquet", **{column: [value, value]})


@pytest.mark.parametrize("word", MISSING)
def test_words_for_missing_are_missing_in_every_column(tmp_path: Path, word: str) -> None:
    (tmp_path / "m.csv").write_text(
        f"id,label,split,note,more\na,x,train, {word} ,1\nb,y,test,you,2\n"
    )
    first, _ = read_manifest(tmp_path / "m.csv", ["note", "more"])
    assert dict(first.cells) == {"more": "1"}
    (tmp_path / "m.csv").write_text(f"id,label,split,note\na,{word},train,one\nb,y,test,you\n")
    with pytest.raises(PrepError, match=r"row 1 .*, column 'label': empty or missing"):
        read_manifest(tmp_path / "m.csv", ["note"])


def test_a_cell_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    text = "word " * 60_000
    (tmp_path / "m.csv").write_text(f"id,label,split,note\na,x,train,{text}\nb,y,test,you\n")
    assert read_manifest(tmp_path / "m.csv", ["note"])[0].cells["note"] == text.strip()


@pytest.mark.parametrize(
    ("row", "line"),
    [('b,y,test,"a"b\n', 3), ('b,y,test,"never closed\n', 3), ('b,y,test,"two\nlines"x\n', 3)],
)
def test_a_stray_quote_is_named_with_its_line(tmp_path: Path, row: str, line: int) -> None:
    (tmp_path / "m.csv").write_text(f"id,label,split,note\na,x,train,one\n{row}")
    with pytest.raises(
        PrepError, match=rf"m\.csv: the row that begins at line {line} is no CSV \("
    ):
        read_manifest(tmp_path / "m.csv", ["note"])


@pytest.mark.parametrize("name", ["labels", "Labels", "samples"])
def test_names_of_other_files_are_no_modalities(name: str) -> None:
    with pytest.raises(DataError, match=f"modality '{name}': use letters"):
        parse_modalities([f"{name}=image", "b=series"])
