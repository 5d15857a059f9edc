"""Data sets by name in the ``data`` key, prepared on first use.

Built in, without a download, or from outside.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.lookup import IMPORT_PATH, Kind, UnknownNameError, file_name, find
from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.suggestions import did_you_mean

Preparation = Callable[[Path], object]
"""Makes a prepared directory where it is told to, unless it is there already, whole or not at
all."""


def _av_digits(out: Path) -> None:
    # Here: a device with data of its own need not have what it imports
    from data_prep.sets import (
        av_digits,
    )

    av_digits.prepare(out)


def _accept(found: Any) -> Preparation:  # noqa: ANN401
    if isinstance(found, type) or not callable(found):
        raise TypeError("a preparation is a function that takes the directory to make, a Path.")
    return found  # type: ignore[no-any-return]  # a callable of whatever kind; what it makes is checked


BUILT_IN: Mapping[str, Preparation] = {"av-digits": _av_digits}
"""Data sets that need no download; they are prepared on first use, in the cache directory."""
PREPARATION = Kind("data", "fedcmi.preparations", BUILT_IN, _accept)


def is_preparation(data: str) -> bool:
    """Return whether the ``data`` key names a preparation; else it is the path of a directory."""
    if data in BUILT_IN or IMPORT_PATH.fullmatch(data):
        return True
    return "/" not in data and data in PREPARATION.names


def locate(data: str, data_set: str = "") -> Path:
    """Return the prepared directory behind the ``data`` key, preparing a data set on first use.

    Parameters
    ----------
    data
        A name in BUILT_IN, an entry point of an installed package, "package.module:name", or the
        path of a prepared directory.
    data_set
        The key ``data-set``: the name of the data set that must be there; empty: any.

    Returns
    -------
    A finished prepared directory.

    Raises
    ------
    DataError
        The path is not a directory, there is no such preparation, it made nothing, or another
        data set is there.
    """
    if data_set and data in BUILT_IN and data != data_set:  # known before anything is prepared
        raise DataError(_other(data_set, data, data))

    directory = _find(data)
    found = read_spec(directory).name if data_set else ""
    if found != data_set:
        raise DataError(_other(data_set, data, found))

    return directory


def _other(data_set: str, data: str, found: str) -> str:
    """Return the error that a directory holds another data set than was asked for."""
    return (
        f"data-set = {data_set!r}, but data = {data!r} holds {found!r}; give the directory that "
        f"`fedcmi prep {data_set}` made as --data, or say what it is to be with --set "
        "data-set=NAME."
    )


def _find(data: str) -> Path:
    """Return the directory of a data set, prepared where it is not yet."""
    if is_preparation(data):
        try:
            prepare = find(PREPARATION, data)
        except UnknownNameError as error:
            raise DataError(str(error)) from error

        out = cache_directory() / file_name(data)
        prepare(out)
        if not out.is_dir():
            raise DataError(f"data = {data!r}: it made no directory {out}, as it was told to.")

        return out

    directory = Path(data).expanduser()
    if not directory.is_dir():
        names = PREPARATION.names
        raise DataError(
            f"data = {data!r}: no such directory, and not a data set by name "
            f"({', '.join(names)}); give the absolute path of a directory made by `fedcmi "
            f"prep`.{did_you_mean(directory.name, names)}"
        )

    return directory
