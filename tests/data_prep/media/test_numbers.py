"""data_prep.media.numbers: the first row of a table is a header or data by a rule, and never by a
guess.
"""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.errors import UnreadableFileError
from data_prep.media import numbers
from data_prep.media.numbers import read_numbers
from data_prep.media.series import decode_series


def read(path: Path) -> tuple[list[str] | None, np.ndarray]:
    return read_numbers(path, "series", "[time, channels]")


@pytest.mark.parametrize(
    ("text", "header", "rows"),
    [
        ("x,y\n1,2\n3,4\n", ["x", "y"], [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("# x, y\n+1e0,.5\n", ["# x", "y"], [[1, 0.5]]),
        ("0\n1\n", None, [[0], [1]]),
    ],
)
def test_a_header_is_a_first_row_without_numbers(
    tmp_path: Path, text: str, header: list[str] | None, rows: list[list[float]]
) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = read(tmp_path / "a.csv")
    assert (found[0], found[1].tolist()) == (header, rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,1,2\n5,6,7\n", "its first row, 0,1,2, may be data or numbers of columns"),
        (",x,y\n0,1,2\n", "its first column has no name, as an index that pandas wrote"),
        (",2,3\n4,5,6\n", "its first row, ,2,3, is neither all numbers nor all names"),
        ("x,2\n4,5\n", "neither all numbers nor all names"),
        ("1,2\n1_0,3\n", "row 2, column 1: '1_0' is no number"),
        ("1,2\n3\n", "row 2 has 1 cells, row 1 has 2"),
        ("1,2\n3,nan\n", "infinite or missing"),
        ("x,y\n1\n", "its header has 2 names, row 1 has 1 cells"),
    ],
)
def test_what_may_be_either_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UnreadableFileError, match=words):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "stated", "names", "rows"),
    [
        ("0,1,2\n5,6,7\n", True, ["0", "1", "2"], [[5, 6, 7]]),
        ("0,1,2\n5,6,7\n", False, None, [[0, 1, 2], [5, 6, 7]]),
        ("2019,2020\n5,6\n", True, ["2019", "2020"], [[5, 6]]),
        ("x,2\n4,5\n", True, ["x", "2"], [[4, 5]]),
        ("x,y\n4,5\n", True, ["x", "y"], [[4, 5]]),
    ],
)
def test_what_is_stated_of_the_header_holds(
    tmp_path: Path, text: str, stated: bool, names: list[str] | None, rows: list[list[float]]
) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = read_numbers(tmp_path / "a.csv", "series", "[time, channels]", header=stated)
    assert (found[0], found[1].tolist()) == (names, rows)


@pytest.mark.parametrize(
    ("text", "stated", "words"),
    [
        ("x,y\n1,2\n", False, "row 1, column 1: 'x' is no number"),
        (",x,y\n0,1,2\n", True, "an index that pandas wrote"),
    ],
)
def test_what_is_stated_and_is_not_so_is_refused(
    tmp_path: Path, text: str, stated: bool, words: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UnreadableFileError, match=words):
        read_numbers(tmp_path / "a.csv", "series", "[time, channels]", header=stated)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_of_numbers_is_the_same_without_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Literal["C", "F"]
) -> None:
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    small = decode_series(str(tmp_path / "a.npy"), 3, 64)
    monkeypatch.setattr(numbers, "_LARGE_BYTES", 1000)
    monkeypatch.setattr(numbers, "_CHUNK", 7)
    assert isinstance(read(tmp_path / "a.npy")[1], np.memmap)
    assert np.array_equal(decode_series(str(tmp_path / "a.npy"), 3, 64), small)
    values[499, 2] = np.nan
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    with pytest.raises(UnreadableFileError, match="infinite or missing"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.NPY", "a.csv"])
def test_an_npy_file_is_one_by_its_content(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.eye(3))
    assert read(tmp_path / name)[1].tolist() == np.eye(3).tolist()


cells = st.one_of(
    st.floats(width=32).map(repr),
    st.integers(-99, 99).map(str),
    st.text("0123456789.eEx_-+ ", max_size=5),
)


@given(st.lists(st.lists(cells, min_size=1, max_size=3), min_size=1, max_size=4))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_read_is_what_pandas_reads(tmp_path: Path, table: list[list[str]]) -> None:
    text = "".join(",".join(row) + "\n" for row in table)
    (tmp_path / "a.csv").write_text(text)
    try:
        header, numbers = read(tmp_path / "a.csv")
    except UnreadableFileError:
        return
    expected = pd.read_csv(
        io.StringIO(text), header=None if header is None else 0, skipinitialspace=True
    )
    np.testing.assert_allclose(numbers, expected.to_numpy(np.float64), rtol=1e-14)
