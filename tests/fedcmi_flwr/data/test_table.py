"""fedcmi_flwr.data.table: texts as they are written, and what is no table."""

from pathlib import Path

import pytest

from fedcmi_flwr.data.table import read_columns


def write(directory: Path, text: str) -> Path:
    path = directory / "samples.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id,group\n1,a\n2,NA\n", {"id": ["1", "2"], "group": ["a", "NA"]}),
        ("\ufeffid,group\r\n01,\r\n\r\n", {"id": ["01"], "group": [""]}),
        ('id,group\n1,"a,\n""b"""\n', {"id": ["1"], "group": ['a,\n"b"']}),
        ("id,group\n", {"id": [], "group": []}),
    ],
    ids=["no value means missing", "marks and line ends of other systems", "quoted", "no rows"],
)
def test_every_cell_is_its_text(tmp_path: Path, text: str, columns: dict[str, list[str]]) -> None:
    assert read_columns(write(tmp_path, text)) == columns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: column names"),
        ("id,id\n1,2\n", "line 1: column names"),
        ("id,group\n1,a\n2\n", "line 3: 1 cells under 2 columns"),
        ("id\n1,a\n", "line 2: 2 cells under 1 columns"),
        ('id,group\n1,"a\n', "line 2: unexpected end of data"),
    ],
)
def test_what_is_no_table_is_named_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_columns(write(tmp_path, text))
