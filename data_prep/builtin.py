"""Data sets that need no download: named in the ``data`` key, prepared on first use."""

from pathlib import Path

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.machine.cache import cache_directory

BUILT_IN = ("av-digits",)
"""Data sets that need no download; they are prepared on first use, in the cache directory."""


def locate(data: str) -> Path:
    """Return the prepared directory behind the ``data`` key, preparing a built-in data set on first use.

    Parameters
    ----------
    data
        A name in BUILT_IN or the path of a prepared directory.

    Returns
    -------
    A finished prepared directory.

    Raises
    ------
    DataError
        The path is not a directory.
    """
    if data in BUILT_IN:
        from data_prep.sets import av_digits

        return av_digits.prepare(cache_directory() / data)
    directory = Path(data).expanduser()
    if not directory.is_dir():
        raise DataError(
            f"data = {data!r}: no such directory, and not a built-in data set ({', '.join(BUILT_IN)}); "
            "give the absolute path of a directory made by `fedcmi prep`."
        )
    return directory
