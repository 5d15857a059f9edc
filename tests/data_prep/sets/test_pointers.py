"""An archive that was cloned without Git LFS says so at once, whichever archive it is.

And endings have any case.
"""

from collections.abc import Callable
from pathlib import Path

import media
import pytest
from arrays import write_arrays
from spoken_digits import write_avmnist
from tabular import MANIFEST_MODALITIES, write_crisismmd, write_manifest, write_tokenizer

from data_prep.errors import PrepError
from data_prep.media.signature import POINTER
from data_prep.sets import ave, avmnist, cremad, crisismmd, manifest, npz

Prepare = Callable[[Path, Path], Path]


def _manifest(raw: Path, out: Path) -> Path:
    return manifest.prepare(raw / "samples.csv", raw, out, MANIFEST_MODALITIES)


def _crisismmd(raw: Path, out: Path) -> Path:
    return crisismmd.prepare(raw, out, tokenizer=str(write_tokenizer(raw / "tokenizer")))


def _small_ave(raw: Path) -> None:
    media.write_ave(raw, videos=4)


def _small_manifest(raw: Path) -> None:
    write_manifest(raw, 8)


def _npz(raw: Path) -> None:
    write_arrays(raw / "toys.npz")


@pytest.mark.parametrize(
    ("write", "files", "prepare"),
    [
        (media.write_cremad, "AudioWAV/*.wav", cremad.prepare),
        (media.write_cremad, "VideoFlash/*.flv", cremad.prepare),
        (_small_ave, "AVE/*.mp4", ave.prepare),
        (write_crisismmd, "data_image/*/*/*.jpg", _crisismmd),
        (write_avmnist, "recordings/*.wav", avmnist.prepare),
        (_small_manifest, "photos/*.png", _manifest),
        (_small_manifest, "motion/*", _manifest),
        (_npz, "toys.npz", lambda raw, out: npz.prepare(raw / "toys.npz", out)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pointers_are_told_before_anything_is_decoded(
    tmp_path: Path, write: Callable[[Path], object], files: str, prepare: Prepare
) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    for path in (tmp_path / "raw").glob(files):
        path.write_bytes(POINTER + b"v1\noid sha256:" + b"0" * 64 + b"\nsize 71058\n")
    with pytest.raises(
        PrepError, match="a Git LFS pointer, not the file itself; run `git lfs pull`"
    ):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_recordings_of_digits_may_end_in_capitals(tmp_path: Path) -> None:
    for name in ("as_they_are", "capitals"):
        write_avmnist(tmp_path / name)
    for path in list((tmp_path / "capitals" / "recordings").glob("*.wav"))[::2]:
        path.rename(path.with_suffix(".WAV"))
    made = [avmnist.prepare(tmp_path / name, tmp_path / f"{name}-out", train_size=50)
            for name in ("as_they_are", "capitals")]  # fmt: skip
    first, second = ((out / "train" / "audio.npy").read_bytes() for out in made)
    assert first == second
