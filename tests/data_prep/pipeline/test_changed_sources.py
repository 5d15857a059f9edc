"""A preparation that goes on decodes again what has changed since."""

from pathlib import Path

import numpy as np
import pytest
from tabular import write_photo

from data_prep.errors import PrepError
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def test_a_source_that_changed_between_two_calls_is_decoded_again(tmp_path: Path) -> None:
    """Twelve black photographs, the last one broken.

    Then all of them are replaced by white ones.
    """
    lines = ["id,label,split,photo,other"]
    for number in range(12):
        name = f"{number:02}.png"
        write_photo(tmp_path / name, BLACK)
        split = "train" if number < 8 else "test"
        lines.append(f"{number},{'ab'[number % 2]},{split},{name},{name}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "11.png").write_bytes(b"broken")
    sizes = Sizes(image_size=8)

    def prepare() -> Path:
        kinds = {"photo": "image", "other": "image"}
        return manifest.prepare(tmp_path / "m.csv", tmp_path, tmp_path / "out", kinds, sizes=sizes)

    with pytest.raises(PrepError, match="1 source files cannot be used"):
        prepare()
    assert len((tmp_path / ".out.rows" / "journal").read_bytes().splitlines()) == 11
    for number in range(12):
        write_photo(tmp_path / f"{number:02}.png", WHITE, seed=number + 1)
    out = prepare()
    for split in ("train", "test"):
        assert np.load(out / split / "photo.npy")[:, :, 4, 4].min() > 200
