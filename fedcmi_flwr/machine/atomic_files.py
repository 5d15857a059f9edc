"""Files and directories that a reader finds old or new but never torn, whenever the writer is
killed or loses power.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader finds the old content or the new one, whole.

    Parameters
    ----------
    path
        Where to; replaced if it exists.
    content
        All of it; text is stored as UTF-8.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system name what was written; of a full disk it does not say where.

    Parameters
    ----------
    path
        What is written.

    Yields
    ------
    Nothing.

    Raises
    ------
    OSError
        The block's, with a path.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name; rename it once it is on the disk.

    Parameters
    ----------
    path
        Where the file belongs; replaced if it exists, and left alone if the block raises.

    Yields
    ------
    The path to write to. Whatever writes there, the file ends with the mode that the umask gives.
    """
    partial = _partial(path)
    partial.unlink(missing_ok=True)  # of a writer that was killed
    partial.touch()
    mode = partial.stat().st_mode

    try:
        with naming(path):
            yield partial
            partial.chmod(mode)  # a library may have put a private file of its own there
            _sync_file(partial)
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

    _sync_directory(path.parent)


@contextlib.contextmanager
def new_directory(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Fill a directory under a temporary name; rename it once all of it is on the disk.

    Parameters
    ----------
    path
        Where the directory belongs; there may be an empty one. Nothing is left of it if the
        block raises.
    mode
        Of the directory, before the umask.

    Yields
    ------
    The directory to write into.

    Raises
    ------
    OSError
        There is a file, or a directory that is not empty.
    """
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
    partial.mkdir(parents=True, mode=mode)

    try:
        with naming(path):
            yield partial
            for each in (partial, *partial.rglob("*")):
                sync = _sync_directory if each.is_dir() else _sync_file
                sync(each)

            if path.exists():
                path.rmdir()

            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise

    _sync_directory(path.parent)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sync_file(path: Path) -> None:
    """Return when a file's content is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk.

    Windows has no such call, and needs none.
    """
    if os.name == "nt":
        return

    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
