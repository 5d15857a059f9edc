"""data_prep.media.vector: one row of numbers, by name where there are names.

What is missing is not filled in.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.vector import decode_cells, decode_vector, read_cells, read_vector


def _file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ["1,2.5,-3\n", "a,b,c\n1,2.5,-3\n", "1\n2.5\n-3\n", "\ufeffa,b,c\n 1 ,2.5,-3\n"]
)
def test_one_row_or_column_with_or_without_header(tmp_path: Path, text: str) -> None:
    assert read_vector(_file(tmp_path / "x.csv", text)).tolist() == [1.0, 2.5, -3.0]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.csv", "bmi,id,age\n22.5,7,63\n")
    assert read_vector(file, ["age", "bmi"]).tolist() == [63.0, 22.5]
    assert read_vector(_file(tmp_path / "plain.csv", "63,22.5\n"), ["age", "bmi"]).tolist() == [
        63.0,
        22.5,
    ]
    with pytest.raises(
        UnreadableFileError, match=r"x\.csv: has no column 'weight', only \['bmi', 'id', 'age'\]"
    ):
        read_vector(file, ["weight"])


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1, 2, 3], np.int16))
    assert read_vector(tmp_path / "x.npy").tolist() == [1.0, 2.0, 3.0]
    assert decode_vector(str(tmp_path / "x.npy"), 3).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(UnreadableFileError, match=r"x\.npy: 3 features, expected are 4"):
        decode_vector(str(tmp_path / "x.npy"), 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3,4\n", r"numbers of shape \[2, 2\]; give one row"),
        ("a,b\n1,\n", "not a vector .*row 1, column 2"),
        ("a,b\n1,nan\n", "not a vector .*infinite or missing"),
        ("a,b\n", "not a vector .*expected numbers"),
        ("", "not a vector"),
    ],
)
def test_what_is_no_vector(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UnreadableFileError, match=words):
        read_vector(_file(tmp_path / "x.csv", text))


def test_cells() -> None:
    cells = read_cells("row", "t.csv:1", [("age", "63"), ("bmi", " 2.5")])
    assert cells == ("t.csv:1", (63.0, 2.5))
    assert decode_cells(cells, ["age", "bmi"]).tolist() == [63.0, 2.5]
    assert read_cells("row", "t.csv:1", [("age", ""), ("bmi", "NaN")]) is None


def test_a_vector_with_a_hole_is_not_filled_in() -> None:
    cells = read_cells("row", "t.csv:3", [("age", "63"), ("bmi", ""), ("sex", "nan")])
    assert cells is not None
    assert math.isnan(cells[1][1])
    with pytest.raises(
        UnreadableFileError, match=r"t\.csv:3: bmi, sex missing beside values of the same vector"
    ):
        decode_cells(cells, ["age", "bmi", "sex"])


@pytest.mark.parametrize("text", ["old", "inf", "-inf", "1,5", "1e400"])
def test_cells_that_are_no_numbers_are_errors(text: str) -> None:
    with pytest.raises(PrepError, match=f"row 1, column 'age': '{text}' is no finite number"):
        read_cells("row 1", "t.csv:1", [("age", text)])
