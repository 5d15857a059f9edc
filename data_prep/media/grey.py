"""Grey-scale digit images from file to stored array: read IDX, scale up, add noise.

Images are in pixel units, 0 (background) to 1 (ink). They are stored in these units plus noise
and standardised after loading by PIXEL_MEAN and PIXEL_STD, so noise levels are stated in
standardised units.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data_prep.errors import UnreadableFileError

PIXEL_MEAN = 0.13
"""Mean pixel of MNIST, in pixel units; what stored images are centred by."""
PIXEL_STD = 0.31
"""Standard deviation of MNIST's pixels, in pixel units; what stored images are divided by (same
source)."""

_UNSIGNED_BYTE = 0x08


def read_idx_images(path: Path) -> UInt8[Tensor, "images height width"]:
    """Read a gzipped IDX file of images (``*-images-idx3-ubyte.gz``).

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    [images, height, width], 0 to 255.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    UnreadableFileError
        Not gzip, cut off, not an IDX file of three dimensions, or of another size than its
        header says.
    """
    return torch.from_numpy(_read_idx(path, dimensions=3))


def read_idx_labels(path: Path) -> Int[Tensor, " images"]:
    """Read a gzipped IDX file of labels (``*-labels-idx1-ubyte.gz``).

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    [images], int64.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    UnreadableFileError
        Not gzip, cut off, not an IDX file of one dimension, or of another size than its header
        says.
    """
    return torch.from_numpy(_read_idx(path, dimensions=1)).long()


def _read_idx(path: Path, dimensions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read an IDX file of unsigned bytes: magic 0, 0, type, dimensions; big-endian sizes.

    The data.
    """
    content = _gunzip(path)
    expected_magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != expected_magic or len(content) < header:
        raise UnreadableFileError(
            path,
            f"begins with {content[:4].hex(' ') or 'nothing'}, expected {expected_magic.hex(' ')} "
            f"(IDX, unsigned bytes, {dimensions} dimensions) and sizes; is the file what its name "
            "says?",
        )

    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(sizes):
        raise UnreadableFileError(
            path,
            f"{len(content) - header} bytes of data, its header says "
            f"{' x '.join(map(str, sizes))}; fetch the file again.",
        )

    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy()


def _gunzip(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, expected a gzipped IDX file; check the raw archive's layout."
        )
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableFileError(
            path, f"not a whole gzip file ({error}); fetch the file again."
        ) from error


def read_grey(path: Path) -> Float[Tensor, "height width"]:
    """Read an image file in grey.

    Parameters
    ----------
    path
        Any file that Pillow decodes, of 8 or 16 bits; the first image of an animation.

    Returns
    -------
    [height, width], 0 (black) to 1 (white).

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is no image.
    """
    # Here: needs Pillow
    from data_prep.media.picture import (
        decoding,
        is_deep,
        load_upright,
        open_picture,
        unit_range,
    )

    with decoding(path), open_picture(path) as image:
        upright = load_upright(path, image, max(image.size))
        if is_deep(upright):
            return torch.from_numpy(unit_range(path, upright, getattr(image, "tag_v2", {})))

        return torch.from_numpy(np.array(upright.convert("L"), dtype=np.float32)) / 255


def fit_square(image: Float[Tensor, "height width"], size: int) -> Float[Tensor, "size size"]:
    """Pad an image to a square with black, around its middle, and scale it.

    Parameters
    ----------
    image
        [height, width].
    size
        Wanted height and width in pixels; larger than the image: :func:`upscale`, smaller:
        bilinear with antialiasing.

    Returns
    -------
    [size, size].
    """
    height, width = image.shape
    longer = max(height, width)
    left, top = (longer - width) // 2, (longer - height) // 2
    square = torch.nn.functional.pad(
        image, (left, longer - width - left, top, longer - height - top)
    )
    if longer <= size:
        return square if longer == size else upscale(square.unsqueeze(0), size).squeeze(0)

    planes = square[None, None]

    return torch.nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)[
        0, 0
    ]


def upscale(
    images: Float[Tensor, "batch height width"], size: int = 28
) -> Float[Tensor, "batch size size"]:
    """Scale images to ``size`` x ``size`` by bilinear interpolation; the range of the values stays.

    Parameters
    ----------
    images
        [batch, height, width].
    size
        Wanted height and width in pixels.

    Returns
    -------
    [batch, size, size].
    """
    scaled = torch.nn.functional.interpolate(
        images.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False
    )
    return scaled.squeeze(1)


def add_pixel_noise(
    image: Float[Tensor, "height width"], noise: Float[Tensor, "height width"], sigma: float
) -> Float[Tensor, "height width"]:
    """Add noise of ``sigma`` in standardised units, that is ``sigma * PIXEL_STD`` in pixel units.

    Parameters
    ----------
    image
        [height, width] in pixel units.
    noise
        [height, width], of variance 1.
    sigma
        Standard deviation of the noise once an image is standardised by PIXEL_STD; 0 or greater.

    Returns
    -------
    [height, width], the noisy image in pixel units; not clipped to [0, 1].

    Raises
    ------
    ValueError
        ``sigma`` is negative or not finite.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma = {sigma}: must be a finite number, 0 or greater.")
    return image + sigma * PIXEL_STD * noise
