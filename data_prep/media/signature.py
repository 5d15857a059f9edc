"""What a file is that no decoder takes, by its first bytes.

So that an error gives the true reason.
"""

from collections.abc import Iterable
from pathlib import Path

from data_prep.errors import PrepError

POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""What a pointer is smaller than."""
_PULL = "a Git LFS pointer, not the file itself; run `git lfs pull` where the archive was cloned"
_KNOWN = (
    (POINTER, _PULL),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
)


def true_reason(path: Path, otherwise: str) -> str:
    """Return why a file cannot be decoded.

    Parameters
    ----------
    path
        The file, which is there.
    otherwise
        What the decoder says; given back where the first bytes say nothing.

    Returns
    -------
    What the file is instead, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(512)

    if not head:
        return "an empty file; fetch the file again."

    for start, what in _KNOWN:
        if head.startswith(start):
            return f"{what}."

    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page (perhaps an error message of the server); fetch the file again."

    return otherwise


def refuse_pointers(files: Iterable[Path], allowed: int) -> None:
    """Say at once, before anything is decoded, that an archive was cloned without its files.

    Parameters
    ----------
    files
        All files of the archive that are going to be read; those that are not there are passed
        over.
    allowed
        How many files may be unusable.

    Raises
    ------
    PrepError
        More of them are Git LFS pointers than allowed.
    """
    found = [path for path in files if _is_pointer(path)]
    if len(found) > allowed:
        raise PrepError(
            f"{found[0]}: {_PULL}. {len(found)} files of the archive are such pointers."
        )


def _is_pointer(path: Path) -> bool:
    try:
        return (
            path.is_file()
            and path.stat().st_size < POINTER_BYTES
            and path.read_bytes().startswith(POINTER)
        )
    except OSError:  # found again, and told, where the file is decoded
        return False
