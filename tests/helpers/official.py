"""The official lists of the archives, where they are beside this checkout.

And stubs of the files that they name.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import media
import pytest
import soundfile
from tabular import write_photo

from data_prep.sets import ave

ARCHIVES = Path(__file__).parents[3] / "shared" / "data" / "archives"
needs_archives = pytest.mark.skipif(
    not ARCHIVES.is_dir(), reason="the official lists are not beside this checkout"
)


def put_stubs(stub: Path, paths: Iterable[Path]) -> None:
    """Make a file look as if it were all of these."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.hardlink_to(stub)


def copy_lists(name: str, raw: Path) -> Path:
    """Copy the lists of an archive, and return the directory."""
    return Path(shutil.copytree(ARCHIVES / name, raw, copy_function=shutil.copyfile))


def stub_ave(raw: Path, videos: int) -> Path:
    """Write AVE's lists and as many of its videos, all of them the same two seconds."""
    copy_lists("AVE", raw)
    stub = raw / "stub.mp4"
    media.write_video(stub, 20, "mpeg4", sound=media.tone(2, 16000, 300), sound_rate=16000, fps=2)
    listed = [
        line.split("&")
        for name in ave.LISTS.values()
        for line in (raw / name).read_text().splitlines()
    ]
    chosen = list(dict.fromkeys(cells[1] for cells in listed if cells[3] == "0"))[
        :: len(listed) // videos
    ][:videos]
    put_stubs(stub, [raw / "AVE" / f"{video}.mp4" for video in chosen])
    return raw


def stub_cremad(raw: Path, clips: int, *, seen: bool = False) -> Path:
    """Write the field's lists of CREMA-D and as many of their clips, all of them the same.

    ``seen``: with videos.
    """
    copy_lists("CREMA-D", raw)
    listed = [
        line.split(",")[0]
        for name in ("train", "test")
        for line in (raw / f"{name}.csv").read_text().splitlines()
    ]
    chosen = listed[:: len(listed) // clips][:clips]
    soundfile.write(raw / "stub.wav", media.tone(1, 16000, 300), 16000)
    put_stubs(raw / "stub.wav", [raw / "AudioWAV" / f"{clip}.wav" for clip in chosen])
    if seen:
        media.write_video(raw / "stub.flv", 10)
        put_stubs(raw / "stub.flv", [raw / "VideoFlash" / f"{clip}.flv" for clip in chosen])
    return raw


def stub_crisismmd(raw: Path) -> Path:
    """Write CrisisMMD's lists and all pictures that they name, all of them the same."""
    copy_lists("CrisisMMD", raw)
    write_photo(raw / "stub.jpg", (90, 120, 30), (16, 12))
    images = set()
    for path in raw.glob("*agreed_label/*.tsv"):
        header, *lines = path.read_text().splitlines()
        images |= {line.split("\t")[header.split("\t").index("image")] for line in lines}
    put_stubs(raw / "stub.jpg", [raw / image for image in images])
    return raw
