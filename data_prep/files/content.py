"""What a file holds, by its content: where its ending says nothing."""

import functools
from pathlib import Path

_OTHER_RIFF = (b"AVI ", b"WEBP")
"""What begins as a WAV file does, and is none."""


def medium_by_content(path: Path) -> str | None:
    """Return one of ``makers.MEDIA``.

    None where it is none of them, or text, which anything may be.

    Parameters
    ----------
    path
        Any path.

    Returns
    -------
    "numbers" of NPY files, "image" of what Pillow opens, "sound" or "video" of what libsndfile
    or FFmpeg open.
    """
    try:
        status = path.stat()
        return _medium(path, status.st_size, status.st_mtime_ns)
    except OSError:  # found again, and told, where it is to be read
        return None


@functools.lru_cache(maxsize=4096)
def _medium(path: Path, size: int, modified: int) -> str | None:
    """Return the medium of a file as it is; kept, since a file is asked for it several times."""
    with path.open("rb") as file:
        head = file.read(16)

    if not head:
        return None
    if head.startswith(b"\x93NUMPY"):
        return "numbers"

    return "image" if _is_image(path) else _streams(path, head)


def _is_image(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _streams(path: Path, head: bytes) -> str | None:
    """Return what FFmpeg finds in a file, cover art aside."""
    from data_prep.errors import UnreadableFileError
    from data_prep.media.container import choose_stream, opened
    from data_prep.media.wholeness import is_sound_file

    if is_sound_file(path) and head[8:12] not in _OTHER_RIFF:
        return "sound"

    for kind, medium in (("video", "video"), ("audio", "sound")):
        try:
            with opened(path) as container:
                choose_stream(path, container, kind)
                return "image" if container.format.name.endswith("_pipe") else medium
        except UnreadableFileError:
            continue

    return None
