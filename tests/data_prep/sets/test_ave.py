"""data_prep.sets.ave on archives of real MP4 files in AVE's layout."""

import csv
import shutil
from pathlib import Path

import media
import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.execution import Execution
from data_prep.sets import ave
from fedcmi_flwr.data.schema import array_path, read_spec, samples_path

SIZE = 32


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive that no test changes."""
    raw = tmp_path_factory.mktemp("ave") / "raw"
    media.write_ave(raw, videos=4)
    return raw


@pytest.fixture(scope="module")
def prepared(archive: Path) -> Path:
    """Return the archive, prepared."""
    return ave.prepare(archive, archive.with_name("prepared"), frame_size=SIZE)


@pytest.fixture
def raw(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive for a test to change."""
    return Path(shutil.copytree(archive, tmp_path / "raw", copy_function=shutil.copy))


def rows(directory: Path, split: str) -> list[dict[str, str]]:
    with samples_path(directory, split).open(newline="") as file:
        return list(csv.DictReader(file))


def excluded(directory: Path) -> list[tuple[str, str, str]]:
    with (directory / "excluded.csv").open(newline="") as file:
        return [(row["id"], row["split"], row["reason"]) for row in csv.DictReader(file)]


def add_line(raw: Path, name: str, line: str) -> None:
    with (raw / name).open("a") as file:
        file.write(f"{line}\n")


def test_description(prepared: Path) -> None:
    """6 of 12 videos are for training, one of them with two segments.

    One of them is in the test list too.
    """
    spec = read_spec(prepared)
    assert (spec.name, spec.splits) == ("ave", {"train": 6, "val": 3, "test": 4})
    assert [(m.kind, m.shape, m.dtype) for m in spec.modalities] == [
        ("spectrogram", (1, 257, 1004), "float16"),
        ("frames", (10, 3, SIZE, SIZE), "uint8"),
    ]
    assert spec.settings == {
        "split": "clean",
        "keep_overlap": False,
        "frame_size": SIZE,
        "modalities": ["audio", "visual"],
    }


def test_a_row_is_of_its_segment(prepared: Path) -> None:
    for split in ("train", "val", "test"):
        audio, visual = (np.load(array_path(prepared, split, name)) for name in ("audio", "visual"))
        for row, spectrogram, frames in zip(rows(prepared, split), audio, visual, strict=True):
            video, _, segment = row["id"].rpartition("_")
            assert (row["group"], row["modalities"]) == (video, "audio+visual")
            assert row["source"] == ";".join([f"AVE/{video}.mp4#{segment}s"] * 2)
            label, number = int(video[2]), int(video[4:])
            assert read_spec(prepared).classes[int(row["label"])] == media.AVE_CLASSES[label]
            start, end = map(int, segment.split("-"))
            centres = [start + (end - start) * (2 * part + 1) / 20 for part in range(10)]
            assert [media.frame_number(frame) for frame in frames] == [
                int(10 * time + 1e-6) % 26 for time in centres
            ]
            hertz = 400 * (label + 1) + number * len(media.AVE_CLASSES) + label
            assert (
                abs(int(spectrogram[0].astype(float).mean(axis=1).argmax()) * 31.25 - hertz) < 31.25
            )


def test_repeated_ids_with_other_segments_are_samples_of_one_group(prepared: Path) -> None:
    same = [row for row in rows(prepared, "train") if row["group"] == "-v0_00"]
    assert [row["id"] for row in same] == ["-v0_00_0-4", "-v0_00_3-5"]
    place = [row["id"] for row in rows(prepared, "train")].index("-v0_00_0-4")
    other = [row["id"] for row in rows(prepared, "train")].index("-v0_00_3-5")
    for name in ("audio", "visual"):
        array = np.load(array_path(prepared, "train", name))
        assert not np.array_equal(array[place], array[other])


def test_videos_of_two_lists_are_dropped_from_the_earlier_one_and_listed(
    prepared: Path, raw: Path, tmp_path: Path
) -> None:
    assert excluded(prepared) == [("-v1_01_1-5", "train", "its video is in testSet.txt too")]
    groups = {
        split: {row["group"] for row in rows(prepared, split)} for split in ("train", "val", "test")
    }
    assert not groups["train"] & groups["test"]
    add_line(raw, media.AVE_VAL, f"{media.AVE_CLASSES[0]}&-v0_01&good&2&4")
    add_line(raw, media.AVE_VAL, f"{media.AVE_CLASSES[0]}&-v0_03&good&2&4")
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert excluded(out) == [
        ("-v0_01_0-4", "train", "its video is in valSet.txt too"),
        ("-v1_01_1-5", "train", "its video is in testSet.txt too"),
        ("-v0_03_2-4", "val", "its video is in testSet.txt too"),
    ]
    kept = ave.prepare(raw, tmp_path / "kept", frame_size=SIZE, keep_overlap=True)
    assert read_spec(kept).splits == {"train": 7, "val": 5, "test": 4}
    assert not (kept / "excluded.csv").exists()


def test_classes_are_numbered_by_first_appearance_in_the_test_list(
    raw: Path, tmp_path: Path, prepared: Path
) -> None:
    assert read_spec(prepared).classes == media.AVE_CLASSES
    lines = (raw / "testSet.txt").read_text().splitlines()
    (raw / "testSet.txt").write_text("\n".join(reversed(lines)) + "\n")
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert read_spec(out).classes == (
        media.AVE_CLASSES[1],
        media.AVE_CLASSES[2],
        media.AVE_CLASSES[0],
    )


@pytest.mark.parametrize("name", ["Annotations.txt", "trainSet.txt", "testSet.txt"])
@pytest.mark.parametrize("heading", ["", "Category&VideoID&Quality&StartTime&EndTime\n"])
def test_with_and_without_a_header(
    raw: Path, tmp_path: Path, prepared: Path, name: str, heading: str
) -> None:
    text = (raw / name).read_text().removeprefix("Category&VideoID&Quality&StartTime&EndTime\n")
    (raw / name).write_text(heading + text)
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert (out / "dataset.json").read_bytes() == (prepared / "dataset.json").read_bytes()


def test_what_is_annotated_but_not_listed_and_what_is_listed_twice_is_said(
    raw: Path, tmp_path: Path
) -> None:
    add_line(raw, "Annotations.txt", f"{media.AVE_CLASSES[0]}&-v0_00&good&1&2")
    add_line(raw, "valSet.txt", f"{media.AVE_CLASSES[0]}&-v0_02&good&0&4")
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert excluded(out)[1:] == [
        ("-v0_02_0-4", "val", "listed a second time in valSet.txt"),
        ("-v0_00_1-2", "", "annotated, but in none of the lists"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Church bell&-v0_09&good&3", f"a line that is not {ave.FIELDS}: "),
        ("Church bell&-v0_09&good&3&x", f"a line that is not {ave.FIELDS}: "),
        ("Church bell&-v0_09&good&0&0", "a segment without length: "),
        ("Church bell&-v0_09&good&5&3", "a segment without length: "),
        ("Church bell&-v0_09&good&1&nan", "a segment without length: "),
        ("Church bell&&good&1&3", "a line without category or video: "),
        ("Banjo&-v0_09&good&1&3", "category 'Banjo' is not in testSet.txt"),
    ],
)
def test_a_line_that_cannot_be_used_is_left_out_and_listed_once(
    raw: Path, tmp_path: Path, prepared: Path, line: str, reason: str
) -> None:
    """As it stands in a list and in the annotations."""
    for name in ("Annotations.txt", "trainSet.txt"):
        lines = (raw / name).read_text().splitlines()
        (raw / name).write_text("\n".join([*lines[:2], line, *lines[2:]]))
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE, modalities=["audio"])
    assert read_spec(out).splits == read_spec(prepared).splits
    added = [entry for entry in excluded(out) if entry not in excluded(prepared)]
    assert [(split, found) for _, split, found in added] == [
        ("train", reason + repr(line) if reason.endswith(": ") else reason)
    ]


FIRST, SECOND, THIRD = media.AVE_CLASSES


@pytest.fixture
def ambiguous(raw: Path) -> Path:
    """Return an archive with a segment under two categories of one list, and a video under others
    in two lists.
    """
    add_line(raw, media.AVE_TRAIN, f"{SECOND}&-v0_01&good&0&4")  # there as the first class
    # In the training list as the second class
    add_line(raw, media.AVE_VAL, f"{THIRD}&-v1_00&good&1&5")
    return raw


def test_conflicting_labels_are_said_and_no_label_is_chosen(
    ambiguous: Path, tmp_path: Path
) -> None:
    out = ave.prepare(ambiguous, tmp_path / "out", frame_size=SIZE, modalities=["audio"])
    assert excluded(out) == [
        (
            "-v1_00_1-5",
            "train",
            "conflicting labels: its video is in valSet.txt too, under another category",
        ),
        ("-v0_01_0-4", "train", "conflicting labels: under 2 categories in trainSet.txt"),
        ("-v1_01_1-5", "train", "its video is in testSet.txt too"),
        ("-v0_01_0-4", "train", "conflicting labels: under 2 categories in trainSet.txt"),
    ]


def test_paper_split_takes_every_line(ambiguous: Path, tmp_path: Path) -> None:
    out = ave.prepare(
        ambiguous, tmp_path / "out", split="paper", frame_size=SIZE, modalities=["audio"]
    )
    listed = {
        split: (ambiguous / name).read_text().splitlines() for split, name in ave.LISTS.items()
    }
    for split, lines in listed.items():
        wanted = [media.AVE_CLASSES.index(line.split("&")[0]) for line in lines]
        assert np.load(out / split / "labels.npy").tolist() == wanted
    assert [row["id"] for row in rows(out, "train")][-1] == "-v0_01_0-4#2"
    assert not (out / "excluded.csv").exists()


def test_videos_are_found_whatever_the_case_of_their_ending(
    raw: Path, tmp_path: Path, prepared: Path
) -> None:
    (raw / "AVE" / "-v0_00.mp4").rename(raw / "AVE" / "-v0_00.MP4")
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE, modalities=["audio"])
    assert (out / "train" / "audio.npy").read_bytes() == (
        prepared / "train" / "audio.npy"
    ).read_bytes()
    assert rows(out, "train")[0]["source"] == "AVE/-v0_00.MP4#0-4s"


@pytest.mark.parametrize(
    "name", ["Annotations.txt", "trainSet.txt", "valSet.txt", "testSet.txt", "AVE"]
)
def test_missing_and_empty_parts_are_named(raw: Path, tmp_path: Path, name: str) -> None:
    (raw / name).rename(raw / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{name}: not found"):
        ave.prepare(raw, tmp_path / "out")
    if name != "AVE":
        (raw / name).write_text("\n")
        with pytest.raises(PrepError, match=f"{name}: holds no lines"):
            ave.prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_videos_that_cannot_be_used_are_named(raw: Path, tmp_path: Path) -> None:
    (raw / "AVE" / "-v0_02.mp4").unlink()
    (raw / "AVE" / "-v1_02.mp4").write_text("not a video")
    media.write_video(raw / "AVE" / "-v2_00.mp4", 65, "mpeg4")  # without sound
    # The video ends at 6.5 s
    add_line(raw, "trainSet.txt", f"{media.AVE_CLASSES[0]}&-v0_00&good&8&10")
    with pytest.raises(PrepError, match="4 source files cannot be used, max_bad = 0") as caught:
        ave.prepare(raw, tmp_path / "out", frame_size=SIZE)
    for words in (
        "v0_02.mp4: not found",
        "v1_02.mp4: not decodable",
        "v2_00.mp4: holds no sound",
        "from 8 s to 10 s",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = ave.prepare(raw, tmp_path / "out", frame_size=SIZE, execution=Execution(max_bad=4))
    assert read_spec(out).splits == {"train": 5, "val": 1, "test": 4}


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_device_that_owns_one_modality(
    archive: Path, tmp_path: Path, prepared: Path, modality: str
) -> None:
    out = ave.prepare(archive, tmp_path / "out", frame_size=SIZE, modalities=[modality])
    assert read_spec(out).modality_names == (modality,)
    own, both = (np.load(array_path(directory, "test", modality)) for directory in (out, prepared))
    assert np.array_equal(own, both)
