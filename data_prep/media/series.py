"""Numeric series from file to stored array: read numbers, bring them to one length."""

import csv
import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.pipeline.plan import MEASURED, Stream
from fedcmi_flwr.types import Modality

POINTS = 128
"""Stored points of a series unless told otherwise."""


def read_series(path: Path) -> Float[np.ndarray, "time channels"]:
    """Read the numbers of a file: a row for each moment, a column for each channel.

    Parameters
    ----------
    path
        ``.npy`` with [time, channels] or [time]; anything else is read as CSV, of which the first row may be a header.

    Returns
    -------
    [time, channels], float64.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, ragged, not numbers, or not finite.
    """
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the archive.")
    try:
        numbers = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _read_csv(path)
        if numbers.ndim not in (1, 2) or not numbers.size or numbers.dtype.kind not in "fiub":
            raise ValueError(f"{numbers.dtype} of shape {numbers.shape}, expected numbers [time, channels]")
        series = numbers.astype(np.float64).reshape(len(numbers), -1)
        if not np.isfinite(series).all():
            raise ValueError("holds numbers that are infinite or missing")
    except (ValueError, EOFError, csv.Error) as error:
        raise UnreadableFileError(path, f"not a series ({error}); write it again.") from error
    return series


def _read_csv(path: Path) -> NDArray[np.float64]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_numeric(rows[0]):
        rows = rows[1:]
    return np.array([[float(cell) for cell in row] for row in rows])


def _is_numeric(row: list[str]) -> bool:
    try:
        return [float(cell) for cell in row] != []
    except ValueError:
        return False


def resample_points(series: Float[np.ndarray, "time channels"], points: int) -> Float32[np.ndarray, "channels points"]:
    """Bring a series to a number of points by linear interpolation; its first and last points stay.

    Nothing is smoothed before points are left out.

    Parameters
    ----------
    series
        [time, channels], evenly spaced in time.
    points
        Wanted number, 2 or more.

    Returns
    -------
    [channels, points].

    Examples
    --------
    >>> resample_points(np.array([[0.0, 5.0], [1.0, 7.0]]), 3).tolist()
    [[0.0, 0.5, 1.0], [5.0, 6.0, 7.0]]
    """
    wanted = np.linspace(0, len(series) - 1, points)
    channels = [np.interp(wanted, np.arange(len(series)), channel) for channel in series.T]
    return np.stack(channels).astype(np.float32)


def decode_series(path: str, channels: int, points: int) -> Float32[np.ndarray, "channels points"]:
    """Return the stored series of a path as jobs hold it; UnreadableFileError for another number of channels."""
    series = read_series(Path(path))
    if series.shape[1] != channels:
        raise UnreadableFileError(Path(path), f"{series.shape[1]} channels, the first series has {channels}.")
    with np.errstate(over="ignore"):  # infinities are found where rows are written
        return resample_points(series, points)


def series_stream(name: Modality, channels: int, points: int = POINTS) -> Stream:
    """Return the stream of a modality of numeric series; its jobs are paths.

    Parameters
    ----------
    name
        Of the modality.
    channels
        Of every series.
    points
        Stored points, 2 or more.

    Returns
    -------
    Series [channels, points], float32, normalised by what the train split measures, channel by channel.

    Raises
    ------
    PrepError
        Too few points.
    """
    if points < 2:
        raise PrepError(f"points = {points}: must be 2 or more.")
    decode: Any = functools.partial(decode_series, channels=channels, points=points)
    recipe = {"maker": "series", "channels": channels, "points": points}
    return Stream(name, "series", (channels, points), "float32", decode, recipe, MEASURED)
