"""Photographs from file to stored array: decode, turn upright, pad to a square, scale."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_prep.errors import PrepError
from data_prep.media.picture import decoding, is_deep, load_upright, open_picture, unit_range
from data_prep.pipeline.plan import Stream
from fedcmi_flwr.types import Modality

PHOTO_SIZE = 224
"""Height and width of the stored square in pixels."""
CENTRE = 127.5
"""Mean and standard deviation 0.5 of what is stored as 0 to 255: normalised values are in [-1,
1]."""
PADDING = (128, 128, 128)
"""Colour of padding, and of what is transparent: grey, the middle, which is fed to an encoder as
about 0."""


def read_photo(path: Path, size: int = PHOTO_SIZE) -> UInt8[np.ndarray, "3 size size"]:
    """Read an image, upright and in RGB, scaled to fit a square and centred on grey.

    Parameters
    ----------
    path
        A JPEG or PNG file, or any other that Pillow decodes; the first image of an animation.
    size
        Wanted height and width in pixels.

    Returns
    -------
    [3, size, size], 0 to 255.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is empty, cut off, or no image.
    """
    with decoding(path), open_picture(path) as image:
        upright = load_upright(path, image, size)
        return np.array(_centre(_to_rgb(path, upright, image), size)).transpose(2, 0, 1).copy()


def _to_rgb(path: Path, image: Image.Image, opened: Image.Image) -> Image.Image:
    """Convert from any mode.

    More than 8 bits to 8, and what is transparent to the colour of padding.
    """
    if is_deep(image):
        levels = unit_range(path, image, getattr(opened, "tag_v2", {})) * 256
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")

    behind = Image.new("RGBA", image.size, PADDING)

    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


def _centre(image: Image.Image, size: int) -> Image.Image:
    """Scale an image so that its longer side is ``size``, and pad the shorter one on both sides."""
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square = Image.new("RGB", (size, size), PADDING)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))

    return square


def decode_photo(path: str, size: int) -> UInt8[np.ndarray, "3 size size"]:
    """Decode a path with :func:`read_photo`."""
    return read_photo(Path(path), size)


def photo_stream(name: Modality, size: int = PHOTO_SIZE) -> Stream:
    """Return the stream of a modality of photographs; its jobs are paths.

    Parameters
    ----------
    name
        Of the modality.
    size
        Height and width in pixels, 1 or more.

    Returns
    -------
    Images [3, size, size], uint8, normalised to [-1, 1].

    Raises
    ------
    PrepError
        No size.
    """
    if size < 1:
        raise PrepError(f"image size {size}: must be 1 pixel or more.")

    decode = functools.partial(decode_photo, size=size)
    recipe = {"maker": "photo", "size": size}

    return Stream(name, "image", (3, size, size), "uint8", decode, recipe, (CENTRE, CENTRE))
