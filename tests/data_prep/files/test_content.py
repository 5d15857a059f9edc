"""Whatever prep takes, predict takes: by its ending, or by what it holds."""

from pathlib import Path

import damaged_media
import numpy as np
import pytest
from PIL import Image

from data_prep.files.makers import MEDIA, Source
from data_prep.files.raw_samples import match

RECIPES = {
    "voice": {"maker": "log-spectrogram", "seconds": 1.0},
    "photo": {"maker": "photo", "size": 8},
    "motion": {"maker": "series", "channels": 1, "points": 4},
}
MEDIUM = {
    "log-spectrogram": "sound",
    "photo": "image",
    "video-frames": "video",
    "series": "numbers",
}


def test_every_kind_of_file_is_known_without_its_ending(tmp_path: Path) -> None:
    originals = damaged_media.write_originals(tmp_path)
    assert {path.suffix for path in originals} <= {
        ending for endings in MEDIA.values() for ending in endings
    }
    for path, maker in originals.items():
        for ending in (".dat", ""):
            renamed = path.rename(tmp_path / f"clip{ending}")
            assert Source(renamed).medium == MEDIUM[maker], path.name
            renamed.rename(path)
        path.unlink()


@pytest.mark.parametrize("content", [b"", b"{}", b"# Notes\n", b"PK\x03\x04 zip", b"\0" * 2000])
def test_what_is_none_of_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes").write_bytes(content)
    assert Source(tmp_path / "notes").medium is None


def test_directories_of_files_with_other_endings_are_samples(tmp_path: Path) -> None:
    """A sound is known by its first bytes, whatever it is called; a note beside it is left out."""
    folder, originals = tmp_path / "samples", tmp_path / "originals"
    folder.mkdir()
    originals.mkdir()
    damaged_media.write_originals(originals)
    for number in range(2):
        (folder / f"s{number}.rec").write_bytes((originals / "sound.m4a").read_bytes())
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(
            folder / f"s{number}.pic", "PNG"
        )
    (folder / "README.md").write_text("notes")
    matched = match([str(folder)], RECIPES)
    assert [sorted(sample.sources) for sample in matched.samples] == [["photo", "voice"]] * 2
    assert [path.name for path in matched.skipped] == ["README.md"]
