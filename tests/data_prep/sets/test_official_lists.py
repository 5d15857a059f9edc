"""The three archives with their official lists, and stubs of some of the files that these name."""

import csv
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from official import needs_archives, stub_ave, stub_cremad, stub_crisismmd
from tabular import write_tokenizer

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
    """Of 4,143 lines one has no length, 45 videos have several categories, and 120 videos are on
    the disk.
    """
    raw = stub_ave(tmp_path / "raw", CLIPS)
    listed = [line for name in ave.LISTS.values() for line in (raw / name).read_text().splitlines()]

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
    raw = stub_cremad(tmp_path / "raw", CLIPS)
    lists = [raw / "train.csv", raw / "test.csv"]
    out = cremad.prepare(
        raw, tmp_path / "out", split="paper", lists=lists, **FEW, modalities=["audio"]
    )
    spec = read_spec(out)
    absent = Counter(row["split"] for row in excluded(out))
    assert sum(spec.splits.values()) == CLIPS
    assert {split: count + absent[split] for split, count in spec.splits.items()} == {
        "train": 6697,
        "test": 744,
    }
    assert {row["reason"] for row in excluded(out)} == {"listed, but not in the archive"}


@needs_archives
def test_crisismmd(tmp_path: Path) -> None:
    raw = stub_crisismmd(tmp_path / "raw")
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    for task, classes in (("informative", 2), ("humanitarian", 5)):
        kept = crisismmd.prepare(
            raw, tmp_path / task, task=task, tokenizer=tokenizer, image_size=16, keep_overlap=True
        )
        spec = read_spec(kept)
        assert (len(spec.classes), spec.splits) == (
            classes,
            {"train": 300, "val": 120, "test": 120},
        )
        labels = [np.load(kept / split / "labels.npy") for split in spec.splits]
        assert set(itertools.chain.from_iterable(labels)) == set(range(classes))
