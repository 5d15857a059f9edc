"""A short name of what is in a prepared directory: it changes when the data are prepared anew."""

import hashlib
from pathlib import Path

DESCRIPTION = "dataset.json"


def data_fingerprint(directory: Path) -> str:
    """Return a prepared directory's fingerprint.

    Parameters
    ----------
    directory
        The directory.

    Returns
    -------
    16 hexadecimal digits, of the description and of the names and sizes of all files; empty
    where nothing is prepared.
    """
    try:
        description = (directory / DESCRIPTION).read_bytes()
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        sizes = [
            f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\n" for path in files
        ]
    except OSError:
        return ""

    return hashlib.sha256(description + "".join(sizes).encode()).hexdigest()[:16]
