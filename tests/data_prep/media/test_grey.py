"""data_prep.media.grey on small IDX files and hand numbers."""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from data_prep.errors import UnreadableFileError
from data_prep.media.grey import (
    PIXEL_STD,
    add_pixel_noise,
    read_idx_images,
    read_idx_labels,
    upscale,
)


def test_idx_round_trip(tmp_path: Path, write_idx: Callable) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4))
    write_idx(tmp_path / "i.gz", images)
    write_idx(tmp_path / "l.gz", np.array([3, 1, 4, 1, 5, 9, 255]))
    assert read_idx_images(tmp_path / "i.gz").tolist() == images.tolist()
    labels = read_idx_labels(tmp_path / "l.gz")
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 1, 4, 1, 5, 9, 255]


def test_images_and_labels_are_not_mistaken(tmp_path: Path, write_idx: Callable) -> None:
    write_idx(tmp_path / "i.gz", np.zeros((2, 3, 3)))
    write_idx(tmp_path / "l.gz", np.zeros(2))
    with pytest.raises(
        UnreadableFileError, match=r"l\.gz: begins with 00 00 08 01, expected 00 00 08 03"
    ):
        read_idx_images(tmp_path / "l.gz")
    with pytest.raises(
        UnreadableFileError, match=r"i\.gz: begins with 00 00 08 03, expected 00 00 08 01"
    ):
        read_idx_labels(tmp_path / "i.gz")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"plain text", "not a whole gzip file"),
        (b"", "begins with nothing"),
        (gzip.compress(b""), "begins with nothing"),
        (gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">I", 1)), "and sizes"),
        (
            gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 2) + b"1234567"),
            "7 bytes of data",
        ),
        (
            gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 2) + b"123456789"),
            "says 2 x 2 x 2",
        ),
    ],
    ids=["no gzip", "empty", "nothing packed", "no sizes", "too short", "too long"],
)
def test_other_contents_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "i.gz").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"i\.gz: .*{problem}"):
        read_idx_images(tmp_path / "i.gz")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_gzip_is_refused(tmp_path: Path, write_idx: Callable, kept: float) -> None:
    path = tmp_path / "i.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (10, 28, 28)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UnreadableFileError, match="not a whole gzip file"):
        read_idx_images(path)


def test_damaged_gzip_is_refused(tmp_path: Path, write_idx: Callable) -> None:
    path = tmp_path / "i.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (10, 28, 28)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError):
        read_idx_images(path)


def test_missing_idx_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.gz: not found"):
        read_idx_labels(tmp_path / "gone.gz")


def test_upscale_interpolates_between_pixel_centres() -> None:
    """From 2 to 4 pixels.

    Centres lie at -0.25, 0.25, 0.75, 1.25 of the old ones, the outer two clamped.
    """
    image = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert upscale(image, 4)[0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 4


def test_upscale_keeps_the_range_and_the_mean() -> None:
    images = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    scaled = jaxtyped(typechecker=beartype)(upscale)(images)
    assert scaled.shape == (6, 28, 28)
    assert images.min() <= scaled.min()
    assert scaled.max() <= images.max()
    torch.testing.assert_close(upscale(torch.full((1, 8, 8), 0.5)), torch.full((1, 28, 28), 0.5))


@pytest.mark.parametrize("sigma", [0.5, 2.5])
def test_noise_has_its_size_in_standardised_units(sigma: float) -> None:
    """The standard deviation of n Gaussian numbers scatters by 1 / sqrt(2 n) of itself."""
    image = torch.rand(200, 196, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200, 196, generator=torch.Generator().manual_seed(1))
    noisy = jaxtyped(typechecker=beartype)(add_pixel_noise)(image, noise, sigma)
    measured = float(((noisy - image) / PIXEL_STD).std())
    assert measured == pytest.approx(sigma, rel=5 / math.sqrt(2 * image.numel()))


def test_no_noise_leaves_an_image_alone() -> None:
    image = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(add_pixel_noise(image, torch.ones(3, 3), 0.0), image)


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_noise_must_be_a_size(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        add_pixel_noise(torch.zeros(2, 2), torch.ones(2, 2), sigma)
