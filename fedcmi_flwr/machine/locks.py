"""Locks on files and directories.

They end with the process that holds them, however that ends (``flock``).

A system without ``flock``, such as Windows, has no locks here: whoever asks for one is warned
and goes on without.
"""

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None  # type: ignore[assignment]

POLL = 0.1
"""Seconds between two attempts to take a lock."""


class LockedError(TimeoutError):
    """A lock that others still hold."""


@contextlib.contextmanager
def locked(path: Path, patience: float, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file or directory.

    Parameters
    ----------
    path
        A directory, or a file, which is made when missing and stays.
    patience
        Seconds to wait for others.
    shared
        Whether others may hold it too, shared as well.

    Yields
    ------
    Nothing.

    Raises
    ------
    LockedError
        Others have held it all the time.
    """
    if fcntl is None:
        warnings.warn(
            f"{path}: this system has no file locks; see that no second process works there.",
            RuntimeWarning,
            stacklevel=3,  # past contextlib
        )
        yield
        return

    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, path, patience, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, patience: float, kind: int) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError(
                    f"{path}: another process has held its lock for {patience:.0f} s."
                ) from None
            time.sleep(POLL)
