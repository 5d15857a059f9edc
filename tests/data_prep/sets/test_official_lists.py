"""The three archives with their official lists, and stubs of some of the files that these name."""

import csv
import itertools
from collections import Counter
from pathlib import Path

import media
import numpy as np
import soundfile
from official import ARCHIVES, copy_lists, needs_archives, put_stubs
from tabular import write_photo, write_tokenizer

from data_prep.inspection.summary import summarise
from data_prep.pipeline.execution import Execution
from data_prep.sets import ave, cremad, crisismmd
from fedcmi_flwr.data.schema import read_spec

CLIPS = 120
FEW = {"frame_size": 16, "execution": Execution(max_bad=8000)}


def excluded(directory: Path) -> list[dict[str, str]]:
    with (directory / "excluded.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@needs_archives
def test_ave(tmp_path: Path) -> None:
    """Of 4,143 lines one has no length, 45 videos have several categories, and 120 videos are on the disk."""
    raw = copy_lists("AVE", tmp_path / "raw")
    stub = tmp_path / "stub.mp4"
    media.write_video(stub, 20, "mpeg4", sound=media.tone(2, 16000, 300), sound_rate=16000, fps=2)
    listed = [line.split("&") for name in ave.LISTS.values() for line in (raw / name).read_text().splitlines()]
    chosen = list(dict.fromkeys(cells[1] for cells in listed if cells[3] == "0"))[:: len(listed) // CLIPS][:CLIPS]
    put_stubs(stub, [raw / "AVE" / f"{video}.mp4" for video in chosen])

    out = ave.prepare(raw, tmp_path / "out", **FEW)
    spec, reasons = read_spec(out), summarise(out).excluded
    assert len(spec.classes) == 28
    assert all(spec.splits.values())
    assert [reason.text for reason in reasons[:1]] == ["not found; complete the raw archive."]
    assert len(reasons) < 12
    assert len([row for row in excluded(out) if row["id"] == "VWi2ENBuTbw"]) == 1
    conflicting = {row["id"] for row in excluded(out) if row["reason"].startswith(ave.CONFLICT)}
    assert len(conflicting) == 45
    assert sum(spec.splits.values()) + len(excluded(out)) == len(listed)
    paper = ave.prepare(raw, tmp_path / "paper", split="paper", **FEW, modalities=["visual"])
    not_there = Counter(row["split"] for row in excluded(paper))
    assert {name: spec + not_there[name] for name, spec in read_spec(paper).splits.items()} == {
        "train": 3339,
        "val": 402,
        "test": 402,
    }


@needs_archives
def test_cremad(tmp_path: Path) -> None:
    """The lists name 6,698 and 744 clips; one of the first is none."""
    raw = tmp_path / "raw"
    lists = [ARCHIVES / "CREMA-D" / name for name in ("train.csv", "test.csv")]
    listed = [line.split(",")[0] for path in lists for line in path.read_text().splitlines()]
    stub = tmp_path / "stub.wav"
    soundfile.write(stub, media.tone(1, 16000, 300), 16000)
    put_stubs(stub, [raw / "AudioWAV" / f"{clip}.wav" for clip in listed[:: len(listed) // CLIPS][:CLIPS]])
    out = cremad.prepare(raw, tmp_path / "out", split="paper", lists=lists, **FEW, modalities=["audio"])
    spec = read_spec(out)
    absent = Counter(row["split"] for row in excluded(out))
    assert sum(spec.splits.values()) == CLIPS
    assert {split: count + absent[split] for split, count in spec.splits.items()} == {"train": 6697, "test": 744}
    assert {row["reason"] for row in excluded(out)} == {"listed, but not in the archive"}


@needs_archives
def test_crisismmd(tmp_path: Path) -> None:
    raw = copy_lists("CrisisMMD", tmp_path / "raw")
    write_photo(tmp_path / "stub.jpg", (90, 120, 30), (16, 12))
    images = set()
    for path in raw.glob("*agreed_label/*.tsv"):
        header, *lines = path.read_text().splitlines()
        images |= {line.split("\t")[header.split("\t").index("image")] for line in lines}
    put_stubs(tmp_path / "stub.jpg", [raw / image for image in images])
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    for task, classes in (("informative", 2), ("humanitarian", 5)):
        kept = crisismmd.prepare(raw, tmp_path / task, task=task, tokenizer=tokenizer, image_size=16, keep_overlap=True)
        spec = read_spec(kept)
        assert (len(spec.classes), spec.splits) == (classes, {"train": 300, "val": 120, "test": 120})
        labels = [np.load(kept / split / "labels.npy") for split in spec.splits]
        assert set(itertools.chain.from_iterable(labels)) == set(range(classes))
