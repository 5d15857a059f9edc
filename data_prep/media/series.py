"""Numeric series from file to stored array: read numbers, bring them to one length."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.numbers import read_numbers
from data_prep.pipeline.notes import note
from data_prep.pipeline.plan import MEASURED, Stream
from fedcmi_flwr.types import Modality

POINTS = 128
"""Stored points of a series unless told otherwise."""


def read_series(path: Path, header: bool | None = None) -> Shaped[np.ndarray, "time channels"]:
    """Read the numbers of a file: a row for each moment, a column for each channel.

    Parameters
    ----------
    path
        ``.npy`` with [time, channels] or [time]; anything else is read as CSV, of which the
        first row may be a header.
    header
        As for :func:`data_prep.media.numbers.read_numbers`.

    Returns
    -------
    [time, channels], float64, or memory-mapped as they are in a large file.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, ragged, not numbers, or not finite.
    """
    _, numbers = read_numbers(path, "series", "[time, channels]", header=header)
    return numbers.reshape(len(numbers), -1)


def resample_points(
    series: Shaped[np.ndarray, "time channels"], points: int
) -> Float32[np.ndarray, "channels points"]:
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
    before = np.floor(wanted).astype(np.int64)
    after = np.minimum(before + 1, len(series) - 1)
    # All that is needed of a large file
    low, high = (series[rows].astype(np.float64) for rows in (before, after))
    values = (high - low) * (wanted - before)[:, None] + low

    return np.ascontiguousarray(values.T, np.float32)


def decode_series(
    path: str, channels: int, points: int, header: bool | None = None
) -> Float32[np.ndarray, "channels points"]:
    """Return the stored series of a path as jobs hold it.

    UnreadableFileError for another number of channels.
    """
    series = read_series(Path(path), header)
    if series.shape[1] != channels:
        raise UnreadableFileError(
            Path(path), f"{series.shape[1]} channels, expected are {channels}."
        )

    if len(series) < points:
        note(f"of fewer than {points} points, and interpolated")

    with np.errstate(over="ignore"):  # infinities are found where rows are written
        return resample_points(series, points)


def series_stream(
    name: Modality, channels: int, points: int = POINTS, header: bool | None = None
) -> Stream:
    """Return the stream of a modality of numeric series; its jobs are paths.

    Parameters
    ----------
    name
        Of the modality.
    channels
        Of every series.
    points
        Stored points, 2 or more.
    header
        As for :func:`read_series`.

    Returns
    -------
    Series [channels, points], float32, normalised by what the train split measures, channel by
    channel.

    Raises
    ------
    PrepError
        Too few points.
    """
    if points < 2:
        raise PrepError(f"points = {points}: must be 2 or more.")

    decode: Any = functools.partial(decode_series, channels=channels, points=points, header=header)
    recipe = {"maker": "series", "channels": channels, "points": points}
    recipe |= {} if header is None else {"header": header}

    return Stream(name, "series", (channels, points), "float32", decode, recipe, MEASURED)
