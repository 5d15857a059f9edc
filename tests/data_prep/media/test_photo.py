"""data_prep.media.photo: real JPEG and PNG files, upright, square and in RGB, whatever is
in them.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.photo import PADDING, photo_stream, read_photo

GREY = PADDING[0]


def corners(width: int, height: int) -> Image.Image:
    """Return an image whose quarters are red (top left), green (top right), blue (bottom left) and
    white.
    """
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    return Image.fromarray(pixels)


def name_of(pixel: np.ndarray) -> str:
    named = {
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "white": (255, 255, 255),
    }
    return next(
        name for name, color in named.items() if np.abs(pixel.astype(int) - color).max() < 60
    )


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((80, 40), (10, 30), (0, 40)), ((20, 40), (0, 40), (10, 30)), ((17, 17), (0, 40), (0, 40)),
     ((1000, 10), (19, 20), (0, 40)), ((1, 400), (0, 40), (19, 20))],
)  # fmt: skip
def test_the_longer_side_fills_the_square_and_the_rest_is_grey(
    tmp_path: Path, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    """80 x 40 becomes 40 x 20: rows 10 to 30 of 40. 1000 x 10 would have 0.4 rows, and gets one."""
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png", 40)
    assert (photo.shape, photo.dtype) == ((3, 40, 40), np.uint8)
    expected = np.broadcast_to(np.array(PADDING, np.uint8)[:, None, None], (3, 40, 40)).copy()
    expected[:, slice(*rows), slice(*columns)] = np.array([255, 0, 0])[:, None, None]
    np.testing.assert_array_equal(photo, expected)


def test_scaling_averages_what_falls_into_a_pixel(tmp_path: Path) -> None:
    """Columns of 0 and 200 in turn, 64 x 64 to 4 x 4.

    100 away from the borders, where a triangle's weights meet.
    """
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 1::2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.abs(read_photo(tmp_path / "a.png", 4).astype(int) - 100).max() <= 4


@pytest.mark.parametrize("size", [(1600, 1200), (500, 300)])
def test_a_large_jpeg_decoded_in_part_looks_like_the_whole(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """The oracle decodes every pixel and scales once."""
    y, x = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([x / size[0], y / size[1], np.sin(x / 40) / 2 + 0.5], axis=2)
    Image.fromarray((255 * smooth).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    photo = read_photo(tmp_path / "a.jpg", 100)
    height = round(100 * size[1] / size[0])
    whole = Image.open(tmp_path / "a.jpg").resize((100, height), Image.Resampling.BILINEAR)
    top = (100 - height) // 2
    difference = np.abs(
        photo[:, top : top + height].astype(float) - np.asarray(whole).transpose(2, 0, 1)
    )
    assert difference.mean() < 1


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, "red green blue white"), (2, "green red white blue"), (3, "white blue green red"),
     (4, "blue white red green"), (5, "red blue green white"), (6, "blue red white green"),
     (7, "white green blue red"), (8, "green white red blue"), (9, "red green blue white")],
)  # fmt: skip
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, expected: str) -> None:
    """Top left, top right, bottom left, bottom right as EXIF 2.3 defines them.

    9 is no orientation.
    """
    image = corners(64, 64)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "a.jpg", 32).transpose(1, 2, 0)
    found = [name_of(photo[row, column]) for row, column in ((4, 4), (4, 28), (28, 4), (28, 28))]
    assert " ".join(found) == expected


def test_broken_exif_says_nothing(tmp_path: Path) -> None:
    corners(64, 64).save(
        tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01"
    )
    assert name_of(read_photo(tmp_path / "a.jpg", 32)[:, 4, 4]) == "red"


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [("L", 77, (77, 77, 77)), ("1", 1, (255, 255, 255)), ("LA", (77, 255), (77, 77, 77)),
     ("RGBA", (10, 20, 30, 255), (10, 20, 30)), ("RGBA", (10, 20, 30, 0), PADDING), ("I;16", 0x4D80, (77, 77, 77))],
)  # fmt: skip
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, color: object, expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (8, 8), color).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png", 8)
    np.testing.assert_array_equal(
        photo, np.broadcast_to(np.array(expected)[:, None, None], (3, 8, 8))
    )


def test_palettes_and_cmyk_become_rgb(tmp_path: Path) -> None:
    palette = corners(16, 16).quantize(4)
    palette.save(tmp_path / "a.png")
    assert name_of(read_photo(tmp_path / "a.png", 16)[:, 2, 13]) == "green"
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((2, 2)))
    assert read_photo(tmp_path / "b.png", 16)[:, 2, 2].tolist() == list(PADDING)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert name_of(read_photo(tmp_path / "a.jpg", 16)[:, 8, 8]) == "red"


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_unusable_files_are_named(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    whole = tmp_path / f"whole.{ending}"
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    files = {
        "empty": b"",
        "text": b"no image at all",
        "half": content[: len(content) // 2],
        "head": content[:20],
    }
    for name, data in files.items():
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(data)
        found = "an empty file" if name == "empty" else "not decodable as an image"
        with pytest.raises(
            UnreadableFileError, match=rf"{name}\.{ending}: {found}.*; fetch the file again"
        ):
            read_photo(path)
    with pytest.raises(UnreadableFileError, match=r"nowhere\.jpg: not found"):
        read_photo(tmp_path / "nowhere.jpg")


def test_the_stream_is_normalised_to_one(tmp_path: Path) -> None:
    stream = photo_stream("image", 8)
    assert (stream.shape, stream.mean_std) == ((3, 8, 8), (127.5, 127.5))
    with pytest.raises(PrepError, match="image size 0"):
        photo_stream("image", 0)
