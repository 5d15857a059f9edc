"""data_prep.media.series: numbers from CSV and NPY files, brought to one length."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.series import decode_series, read_series, resample_points, series_stream


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "1,2\n3,4\n5,6.5\n"),
        ("a.csv", "\ufeffx,y\r\n1,2\r\n3,4\r\n\r\n5,6.5"),
        ("a.txt", "1, 2\n3,4\n5e0,6.5\n"),
    ],
)
def test_csv_with_and_without_a_header(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read_series(tmp_path / name).tolist() == [[1, 2], [3, 4], [5, 6.5]]


@pytest.mark.parametrize("dtype", ["float16", "int32", "bool", ">f8"])
def test_npy_of_any_numbers(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [1, 0]], dtype))
    assert read_series(tmp_path / "a.npy").tolist() == [[0, 1], [1, 0]]
    np.save(tmp_path / "b.npy", np.array([0, 1, 1], dtype))
    assert read_series(tmp_path / "b.npy").tolist() == [[0], [1], [1]]


def test_resampling_is_linear_and_keeps_both_ends() -> None:
    """5 points at 0, 1, 2, 3, 4 to 9: every half; to 3: every second one.

    One point stands everywhere.
    """
    series = np.array([[0.0, 1], [2, 1], [4, 1], [0, 1], [8, 1]])
    assert resample_points(series, 9)[0].tolist() == [0, 1, 2, 3, 4, 2, 0, 4, 8]
    assert resample_points(series, 3).tolist() == [[0, 4, 8], [1, 1, 1]]
    assert resample_points(series[:1], 3).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_series_of_the_wanted_length_stays(tmp_path: Path) -> None:
    series = np.random.default_rng(0).standard_normal((20, 3))
    np.save(tmp_path / "a.npy", series)
    np.testing.assert_array_equal(
        decode_series(str(tmp_path / "a.npy"), 3, 20), series.T.astype(np.float32)
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", r"float64 of shape \(0, 0\), expected numbers \[time, channels\]"),
        ("a.csv", b"x,y\n", "expected numbers"),
        ("a.csv", b"1,2\n3\n", "row 2 has 1 cells"),
        ("a.csv", b"1,2\n3,nan\n", "infinite or missing"),
        ("a.csv", b"1,2\n3,\n", "row 2, column 2"),
        ("a.csv", b"\xff\xfe1\x00", "codec can't decode"),
        ("a.npy", b"", "not a series"),
        ("a.npy", b"no array", "not a series"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UnreadableFileError, match=rf"{name}: not a series \(.*{words}|{name}: {words}"
    ):
        read_series(tmp_path / name)


def test_arrays_that_are_no_series_are_refused(tmp_path: Path) -> None:
    for array in (
        np.zeros((2, 2, 2)),
        np.array(1.0),
        np.zeros((0, 3)),
        np.array(["a"]),
        np.array([1j]),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(UnreadableFileError, match="expected numbers"):
            read_series(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UnreadableFileError, match="not a series"):
        read_series(tmp_path / "a.npy")
    with pytest.raises(UnreadableFileError, match="not found"):
        read_series(tmp_path / "b.npy")


def test_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    with pytest.raises(UnreadableFileError, match="2 channels, expected are 3"):
        decode_series(str(tmp_path / "a.npy"), 3, 4)
    with pytest.raises(PrepError, match="points = 1"):
        series_stream("motion", 3, 1)
