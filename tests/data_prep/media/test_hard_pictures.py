"""data_prep.media.picture: every orientation in every format, and ranges that the format states or
does not.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.errors import UnreadableFileError
from data_prep.media.grey import read_grey
from data_prep.media.photo import read_photo

ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""EXIF tag -> what a viewer shows of the stored rows."""


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("tag", ORIENTATIONS)
def test_pictures_are_stored_upright(tmp_path: Path, ending: str, tag: int) -> None:
    rows = np.zeros((32, 48, 3), np.uint8)
    rows[:16, :24], rows[:16, 24:], rows[16:, :24] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(rows).save(tmp_path / f"a.{ending}", exif=exif, **options)
    Image.fromarray(np.ascontiguousarray(ORIENTATIONS[tag](rows))).save(tmp_path / "upright.png")
    found = read_photo(tmp_path / f"a.{ending}", 48).astype(int)
    expected = read_photo(tmp_path / "upright.png", 48).astype(int)
    inner = np.abs(found - expected)[:, ::7, ::7]
    assert np.percentile(inner, 95) < 30
    shown = read_grey(tmp_path / f"a.{ending}")
    assert tuple(shown.shape) == ((32, 48) if tag < 5 else (48, 32))


def ramp(highest: float, dtype: type) -> np.ndarray:
    return np.linspace(0, highest, 64 * 64).reshape(64, 64).astype(dtype)


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (ramp(1, np.float32), None),
        (ramp(65535, np.uint16), None),
        (ramp(4095, np.uint16), 4095),
        (ramp(255, np.int32), 255),
        (ramp(1000, np.float32), 1000),
    ],
)
def test_deep_pictures_are_scaled_by_what_the_format_says(
    tmp_path: Path, pixels: np.ndarray, white: int | None
) -> None:
    Image.fromarray(pixels).save(
        tmp_path / "a.tiff", tiffinfo={} if white is None else {281: white}
    )
    grey = read_grey(tmp_path / "a.tiff")
    assert float(grey.max()) == 1
    assert abs(float(grey.mean()) - 0.5) < 0.01
    photo = read_photo(tmp_path / "a.tiff", 64)
    assert abs(float(photo.mean()) - 127.5) < 2


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (ramp(255, np.float32), "values of 0 to 255, expected 0 to 1"),
        (ramp(1, np.float32) - 0.5, r"values of -0\.5 to 0\.5, expected 0 to 1"),
        (ramp(255, np.int32), "integers of 32 bits, 0 to 255: what is white"),
        (ramp(4095, np.uint16), "16 bits, but values of 0 to 4095 only: 12 bits"),
        (np.full((8, 8), np.nan, np.float32), "infinite or not a number"),
    ],
)
@pytest.mark.parametrize("read", [read_photo, read_grey])
def test_a_range_that_the_format_does_not_state_is_refused_with_what_was_found(  # type: ignore[no-untyped-def]
    tmp_path: Path,
    pixels: np.ndarray,
    found: str,
    read,  # noqa: ANN001
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableFileError, match=found):
        read(tmp_path / "a.tiff")


def test_a_black_picture_of_16_bits_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    assert not read_photo(tmp_path / "a.png", 8).any()


def test_a_picture_of_many_megapixels_is_taken(tmp_path: Path) -> None:
    """185 megapixels, above where Pillow refuses; JPEG is decoded at an eighth."""
    Image.new("L", (15000, 12400), 90).save(tmp_path / "a.jpg")
    photo = read_photo(tmp_path / "a.jpg", 32)
    assert np.abs(photo[:, 16, 16].astype(int) - 90).max() < 3


def test_a_picture_that_takes_too_much_memory_says_so(tmp_path: Path) -> None:
    Image.new("1", (40000, 20000)).save(tmp_path / "a.png")
    with pytest.raises(
        UnreadableFileError, match="40000 x 20000 pixels take 800 MB to decode; scale it down"
    ):
        read_photo(tmp_path / "a.png", 32)
