"""An image file, opened: upright, and in a range that its format states."""

import contextlib
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from data_prep.errors import UnreadableFileError
from data_prep.media.signature import true_reason

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""
_LARGEST_TAGS = (281, 341)
"""TIFF: MaxSampleValue and SMaxSampleValue, the value that is white."""
_TWELVE_BITS = 4095
MOST_BYTES = 700_000_000
"""Of an image as it is decoded."""


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Say in our words what Pillow finds wrong with a file."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is raised
            yield
    except FileNotFoundError as error:
        raise UnreadableFileError(path, "not found; complete the archive.") from error
    except UnreadableFileError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        struct.error,
        EOFError,
        IndexError,
        OverflowError,
    ) as error:
        reason = f"not decodable as an image ({error}); fetch the file again."
        raise UnreadableFileError(path, true_reason(path, reason)) from error


def open_picture(path: Path) -> Image.Image:
    """Open an image and look at its header only, whatever its size; close it."""
    # What is decoded is limited by :func:`turn`
    limit, Image.MAX_IMAGE_PIXELS = (
        Image.MAX_IMAGE_PIXELS,
        None,
    )
    try:
        return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def load_upright(path: Path, image: Image.Image, side: int) -> Image.Image:
    """Decode an image, and turn it as its EXIF data say; broken EXIF data are ignored.

    Parameters
    ----------
    path
        The file, for the error.
    image
        From :func:`open_picture`.
    side
        Pixels of the longer side that are enough: more than twice as many are averaged first.

    Returns
    -------
    The image, upright.

    Raises
    ------
    UnreadableFileError
        It would not fit in memory.
    """
    scale = 2 * side / max(image.size)  # twice: exact scaling smooths what the decoder drops
    image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    megabytes = image.width * image.height * len(image.getbands()) / 1e6
    if megabytes * 1e6 > MOST_BYTES:
        raise UnreadableFileError(
            path,
            f"{image.width} x {image.height} pixels take {megabytes:.0f} MB to decode; scale it "
            "down.",
        )

    image.load()
    try:
        # After load: some formats are turned by it
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (OSError, ValueError, SyntaxError, struct.error):
        orientation = None

    if megabytes > 100 and image.mode in ("L", "RGB"):
        image = image.reduce(max(1, int(max(image.size) / (2 * side))))

    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def is_deep(image: Image.Image) -> bool:
    """Return whether an image is grey with more than 8 bits, or of floats."""
    return image.mode.startswith(("I", "F"))


def unit_range(
    path: Path, image: Image.Image, tags: Mapping[int, Any]
) -> Float[np.ndarray, "height width"]:
    """Return a deep grey image from 0 (black) to 1 (white), by what the format says is white.

    Parameters
    ----------
    path
        The file, for the error.
    image
        Of more than 8 bits, or of floats.
    tags
        Those of the file, if it is a TIFF.

    Returns
    -------
    [height, width].

    Raises
    ------
    UnreadableFileError
        The format does not say what is white, or the values cannot be of what it says; with the
        range found.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UnreadableFileError(
            path, "holds pixels that are infinite or not a number; write it again."
        )

    low, high = float(values.min()), float(values.max())
    stated = next((float(np.ravel(tags[tag])[0]) for tag in _LARGEST_TAGS if tag in tags), None)
    advice = "scale it, or state the value of white as MaxSampleValue (TIFF)."
    if stated is not None and stated > 0:
        white = stated
    elif image.mode.startswith("I;16"):
        white = 65535.0
        if 0 < high <= _TWELVE_BITS:
            raise UnreadableFileError(
                path, f"16 bits, but values of {low:g} to {high:g} only: 12 bits? {advice}"
            )
    elif image.mode == "F":
        white = 1.0
    else:
        raise UnreadableFileError(
            path, f"integers of 32 bits, {low:g} to {high:g}: what is white? {advice}"
        )

    if low < 0 or high > white:
        raise UnreadableFileError(
            path, f"values of {low:g} to {high:g}, expected 0 to {white:g}; {advice}"
        )

    return (values / white).astype(np.float32)
