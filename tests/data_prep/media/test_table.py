"""data_prep.media.table: numbers, one-hot categories and masks, from a row or a file of cells."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.table import CellError, Table, decode_row, table_stream

TABLE = Table(("age", "sex", "bmi"), {"age": 50.0, "bmi": 24.5}, {"sex": ("f", "m")})
OPEN = Table(("city",), {}, {"city": ("oslo", "rome", "...")})


@pytest.mark.parametrize(
    ("cells", "vector"),
    [
        ({"age": "63", "sex": "m", "bmi": "-1e1"}, [63, 0, 0, 1, 0, -10, 0]),
        ({"age": " NA ", "sex": "f", "bmi": "20"}, [50, 1, 1, 0, 0, 20, 0]),
        ({"sex": "nan"}, [50, 1, 0, 0, 1, 24.5, 1]),
    ],
    ids=["whole", "a number is missing", "nothing is known"],
)
def test_a_row_is_values_and_masks(cells: dict[str, str], vector: list[float]) -> None:
    assert list(TABLE.encode(cells)) == vector
    assert TABLE.features == len(vector)


def test_what_is_unknown_is_an_error_unless_there_is_a_category_for_it() -> None:
    with pytest.raises(
        CellError, match=r"column 'sex': 'd' is none of its categories \['f', 'm'\].*sex=f,m,\.\.\."
    ):
        TABLE.encode({"sex": "d"})
    assert OPEN.encode({"city": "rome"}) == (0, 1, 0, 0)
    assert OPEN.encode({"city": "lima"}) == (0, 0, 1, 0)
    assert OPEN.encode({"city": ""}) == (0, 0, 0, 1)


@pytest.mark.parametrize("text", ["old", "inf", "-Infinity", "1,5", "1e400", "1_000", "0x10"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(CellError, match=f"column 'age': '{text}' is no finite number"):
        TABLE.encode({"age": text})


def test_values_by_feature() -> None:
    assert TABLE.by_column({"age": 7.0, "bmi": 3.0}, 1.0) == (7, 1, 1, 1, 1, 3, 1)


def test_the_recipe_says_all_of_it() -> None:
    stream = table_stream("lab", TABLE)
    assert (stream.kind, stream.shape, stream.recipe["maker"]) == ("vector", (7,), "table")
    assert Table.of(stream.recipe) == TABLE
    with pytest.raises(PrepError, match="each column must be one of them"):
        Table(("age", "sex"), {"age": 50.0}, {})


def test_a_file_of_cells(tmp_path: Path) -> None:
    """Columns are found by name, in any order and beside others."""
    (tmp_path / "x.csv").write_text("\ufeffid,bmi, sex,age\n7,,f,63\n", encoding="utf-8")
    assert decode_row(tmp_path / "x.csv", TABLE).tolist() == [63, 0, 1, 0, 0, 24.5, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"age,sex\n63,f\n",
            r"must have column 'bmi' once, found \['age', 'sex'\]; leave a cell empty",
        ),
        (b"age,sex,bmi,age\n63,f,20,1\n", "must have column 'age' once"),
        (b"age,sex,bmi\n", r"1 rows of \[3\] cells; give a header and one row"),
        (b"age,sex,bmi\n63,f,20\n64,m,21\n", r"3 rows of \[3\] cells; give a header and one row"),
        (b"age,sex,bmi\n63,f\n", r"2 rows of \[2, 3\] cells; give a header and one row"),
        (b"age,sex,bmi\n,NA,\n", "all cells of age, sex, bmi are empty; leave the file out"),
        (b"age,sex,bmi\n63,x,\n", "column 'sex': 'x' is none of its categories"),
        (b"", "0 rows"),
        (b"\x93NUMPY\xff", "not a table in CSV"),
    ],
)
def test_files_that_are_no_row(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=words):
        decode_row(tmp_path / "x.csv", TABLE)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="not found"):
        decode_row(tmp_path / "x.csv", TABLE)


def test_a_missing_number_is_0_once_it_is_standardised() -> None:
    mean, std = (50.0, 0.0, 0.0, 0.0, 0.0, 24.5, 0.0), (9.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0)
    vector = np.array(TABLE.encode({"sex": "m"}), np.float32)
    assert ((vector - np.float32(mean)) / np.float32(std)).tolist() == [0, 1, 0, 1, 0, 0, 1]
