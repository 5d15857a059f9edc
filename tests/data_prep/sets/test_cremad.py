"""data_prep.sets.cremad on archives of real WAV and FLV files in CREMA-D's layout."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import media
import numpy as np
import pytest
import soundfile

from data_prep.errors import PrepError
from data_prep.pipeline.execution import Execution
from data_prep.sets import cremad
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import array_path, read_spec, samples_path

SIZE = 32


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of 64 clips that no test changes."""
    raw = tmp_path_factory.mktemp("cremad") / "raw"
    assert len(media.write_cremad(raw)) == 64
    return raw


@pytest.fixture(scope="module")
def prepared(archive: Path) -> Path:
    """Return the archive, prepared with the default split."""
    return cremad.prepare(archive, archive.with_name("prepared"), frame_size=SIZE)


@pytest.fixture
def raw(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive for a test to change."""
    return Path(shutil.copytree(archive, tmp_path / "raw", copy_function=shutil.copy))


def rows(directory: Path, split: str) -> list[dict[str, str]]:
    with samples_path(directory, split).open(newline="") as file:
        return list(csv.DictReader(file))


def excluded(directory: Path) -> dict[str, str]:
    with (directory / "excluded.csv").open(newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_description(prepared: Path) -> None:
    spec = read_spec(prepared)
    assert (spec.name, spec.classes) == ("cremad", ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG"))
    audio, visual = spec.modalities
    assert (audio.kind, audio.shape, audio.dtype, audio.mean, audio.std) == (
        "spectrogram", (1, 257, 299), "float16", 0.0, 1.0,
    )  # fmt: skip
    assert (visual.kind, visual.shape, visual.dtype) == ("frames", (3, 3, SIZE, SIZE), "uint8")
    assert visual.mean == pytest.approx((123.675, 116.28, 103.53))
    assert visual.std == pytest.approx((58.395, 57.12, 57.375))
    assert spec.settings == {
        "split": "actor",
        "seed": 0,
        "frame_size": SIZE,
        "modalities": ["audio", "visual"],
    }
    assert sum(spec.splits.values()) == 63


def test_a_row_is_of_its_clip(prepared: Path, archive: Path) -> None:
    """The name says the label, the lower half of the frames has its colour, and the tone its
    frequency.
    """
    for split in ("train", "test"):
        audio, visual = (np.load(array_path(prepared, split, name)) for name in ("audio", "visual"))
        table = rows(prepared, split)
        assert [row["id"] for row in table] == sorted(row["id"] for row in table)
        for row, spectrogram, frames in zip(table, audio, visual, strict=True):
            clip = row["id"]
            label = media.EMOTIONS.index(clip.split("_")[2])
            assert (row["label"], row["group"], row["modalities"]) == (
                str(label),
                clip[:4],
                "audio+visual",
            )
            assert row["source"] == f"AudioWAV/{clip}.wav;VideoFlash/{clip}.flv"
            shown = frames[:, :, -6:-2, 4:-4].astype(int).mean(axis=(0, 2, 3))
            assert np.abs(shown - media.COLOURS[label]).max() < 10
            number = sorted(path.stem for path in (archive / "VideoFlash").iterdir()).index(clip)
            hertz = 300 * (label + 1) + number
            assert (
                abs(int(spectrogram[0].astype(float).mean(axis=1).argmax()) * 31.25 - hertz) < 31.25
            )
            count = {media.VERY_SHORT: 1, media.MINUTE_LONG: 600}.get(clip, 20 + number % 11)
            expected = [int(count * (2 * part + 1) / 6) % 26 for part in range(3)]
            assert [media.frame_number(frame) for frame in frames] == expected


def test_the_clip_that_is_none_is_left_out_by_name_and_the_odd_ones_are_in(prepared: Path) -> None:
    stored = {row["id"] for split in ("train", "test") for row in rows(prepared, split)}
    assert {media.VERY_SHORT, media.NO_DURATION, media.MINUTE_LONG} <= stored
    assert excluded(prepared) == {media.NOT_A_CLIP: cremad.NOT_CLIPS[media.NOT_A_CLIP]}


def test_an_odd_clip_whose_header_is_wrong_is_in_and_another_one_is_not(
    raw: Path, tmp_path: Path
) -> None:
    """The one frame of a header that states 3 s."""
    for clip in (media.VERY_SHORT, "1001_DFA_ANG_XX"):
        path = raw / "VideoFlash" / f"{clip}.flv"
        media.write_video(path, 30)
        media.cut_after(path, 1)
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE, execution=Execution(max_bad=1))
    assert list(excluded(out)) == [media.NOT_A_CLIP, "1001_DFA_ANG_XX"]
    assert "cut off: ends at 0.00 s, its header says 3.00 s" in excluded(out)["1001_DFA_ANG_XX"]


def test_no_actor_is_in_both_splits(prepared: Path) -> None:
    train, test = ({row["group"] for row in rows(prepared, split)} for split in ("train", "test"))
    assert not train & test
    assert (len(train), len(test)) == (4, 1)


def test_ninety_one_actors_are_split_82_to_9(tmp_path: Path) -> None:
    """Nothing is decoded: the plan alone shows it."""
    clips = [cremad._Clip(f"{1001 + number}_DFA_ANG_XX", {}) for number in range(91)]
    drawn = [cremad._draw_splits(clips, "actor", seed) for seed in (0, 0, 1)]
    assert Counter(drawn[0].values()) == {"train": 82, "test": 9}
    assert drawn[0] == drawn[1] != drawn[2]


def test_random_split_is_stratified(archive: Path, tmp_path: Path) -> None:
    """Of 10 to 12 clips of an emotion 1 is for testing."""
    out = cremad.prepare(archive, tmp_path / "out", split="random", frame_size=SIZE)
    assert Counter(row["label"] for row in rows(out, "test")) == dict.fromkeys("012345", 1)
    again = cremad.prepare(archive, tmp_path / "again", split="random", frame_size=SIZE, seed=1)
    assert rows(out, "test") != rows(again, "test")


def test_paper_split_is_what_the_list_says(archive: Path, tmp_path: Path) -> None:
    listing = tmp_path / "paper.csv"
    listing.write_text(
        f"# clip,split\n1001_DFA_ANG_XX,train\n\n1002_IEO_SAD_XX, test\n"
        f"{media.NOT_A_CLIP},train\n1003_DFA_HAP_XX,train\n"
    )
    out = cremad.prepare(archive, tmp_path / "out", split="paper", lists=[listing], frame_size=SIZE)
    assert [row["id"] for row in rows(out, "train")] == ["1001_DFA_ANG_XX", "1003_DFA_HAP_XX"]
    assert [row["id"] for row in rows(out, "test")] == ["1002_IEO_SAD_XX"]
    reasons = Counter(excluded(out).values())
    assert reasons == {cremad.NOT_CLIPS[media.NOT_A_CLIP]: 1, "in none of the lists": 60}
    listing.write_text("1001_DFA_ANG_XX,test\n1002_IEO_SAD_XX,train\n")
    with pytest.raises(PrepError, match="prepared with other settings: list_sha256"):
        cremad.prepare(archive, out, split="paper", lists=[listing], frame_size=SIZE)


TRAIN, TEST = "1001_DFA_ANG_XX", "1002_IEO_SAD_XX"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("given", [False, True])
def test_paper_split_reads_the_lists_of_the_field(
    raw: Path, tmp_path: Path, end: str, given: bool
) -> None:
    """Their lines say the emotion, their names the split.

    What cannot be used of them is listed and stops nothing.
    """
    directory = tmp_path if given else raw
    train = [f"{TRAIN},ANG", "1099_DFA_ANG_XX,ANG", "1003_DFA_HAP_XX,SAD", "1003_DFA_SAD_XX,val"]
    (directory / "train.csv").write_bytes(("\ufeff" + end.join(train) + end).encode())
    (directory / "test.csv").write_bytes(
        f"{TEST},SAD{end}{media.NOT_A_CLIP},SAD{end}{TRAIN},ANG{end}".encode()
    )
    lists = [directory / "train.csv", directory / "test.csv"] if given else []
    out = cremad.prepare(
        raw, tmp_path / "out", split="paper", lists=lists, frame_size=SIZE, modalities=["audio"]
    )
    assert [row["id"] for row in rows(out, "train")] == [TRAIN]
    assert [row["id"] for row in rows(out, "test")] == [TEST]
    with (out / "excluded.csv").open(newline="") as file:
        places = {
            row["source"]: row["reason"] for row in csv.DictReader(file) if ".csv" in row["source"]
        }
    assert places == {
        "train.csv:2": "listed, but not in the archive",
        "train.csv:3": "not <clip>,train, <clip>,test, or <clip> with its emotion in train.csv or test.csv",
        "train.csv:4": "not <clip>,train, <clip>,test, or <clip> with its emotion in train.csv or test.csv",
        "test.csv:3": "conflicting splits: listed for train and test; it stays in train",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1001_DFA_ANG_XX,val\n", r"list\.csv: lists 0 clips, but not of both splits"),
        ("1001_DFA_ANG_XX,ANG\n", r"list\.csv: lists 0 clips, but not of both splits"),
        ("1001_DFA_ANG_XX,train\n", r"lists 1 clips, but not of both splits"),
        ("", r"lists 0 clips, but not of both splits"),
    ],
)
def test_lists_that_cannot_be_used(archive: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(PrepError, match=words):
        cremad.prepare(
            archive, tmp_path / "out", split="paper", lists=[tmp_path / "list.csv"], frame_size=SIZE
        )
    assert not (tmp_path / "out").exists()


def test_lists_that_are_not_there_are_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"train\.csv: not found, expected a list of clips; give the lists"
    ):
        cremad.prepare(archive, tmp_path / "out", split="paper", frame_size=SIZE)


def test_pointers_of_git_lfs_are_told_before_anything_is_decoded(raw: Path, tmp_path: Path) -> None:
    pointer = (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 71058\n"
    )
    for path in (raw / "AudioWAV").glob("*.wav"):
        path.write_bytes(pointer)
    with pytest.raises(
        PrepError, match=r"a Git LFS pointer, not the file itself; run `git lfs pull` .* 63 files"
    ):
        cremad.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert not list(tmp_path.glob(".out*"))


def test_files_are_found_whatever_the_case_of_their_endings(
    raw: Path, tmp_path: Path, prepared: Path
) -> None:
    (raw / "AudioWAV" / f"{TRAIN}.wav").rename(raw / "AudioWAV" / f"{TRAIN}.WAV")
    (raw / "VideoFlash" / f"{TEST}.flv").rename(raw / "VideoFlash" / f"{TEST}.Flv")
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE)
    for split in ("train", "test"):
        assert [row["modalities"] for row in rows(out, split)] == [
            row["modalities"] for row in rows(prepared, split)
        ]


def test_a_clip_with_one_file_is_kept_and_marked(raw: Path, tmp_path: Path) -> None:
    (raw / "VideoFlash" / "1001_DFA_ANG_XX.flv").unlink()
    (raw / "AudioWAV" / "1002_DFA_SAD_XX.wav").unlink()
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE)
    assert sum(read_spec(out).splits.values()) == 63
    found = {
        row["id"]: (row["modalities"], row["source"])
        for split in ("train", "test")
        for row in rows(out, split)
    }
    assert found["1001_DFA_ANG_XX"] == ("audio", "AudioWAV/1001_DFA_ANG_XX.wav")
    assert found["1002_DFA_SAD_XX"] == ("visual", "VideoFlash/1002_DFA_SAD_XX.flv")
    assert Counter(text for text, _ in found.values()) == {
        "audio+visual": 61,
        "audio": 1,
        "visual": 1,
    }
    counts = np.sum([load_split(out, split).has.sum(axis=0) for split in ("train", "test")], axis=0)
    assert counts.tolist() == [62, 62]


@pytest.mark.parametrize(("modality", "other"), [("audio", "VideoFlash"), ("visual", "AudioWAV")])
def test_a_device_that_owns_one_modality(
    raw: Path, tmp_path: Path, prepared: Path, modality: str, other: str
) -> None:
    shutil.rmtree(raw / other)
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE, modalities=[modality])
    assert read_spec(out).modality_names == (modality,)
    for split in ("train", "test"):
        assert [row["id"] for row in rows(out, split)] == [
            row["id"] for row in rows(prepared, split)
        ]
        own, both = (
            np.load(array_path(directory, split, modality)) for directory in (out, prepared)
        )
        assert np.array_equal(own, both)


def test_unusable_files_are_named_with_their_reasons(raw: Path, tmp_path: Path) -> None:
    (raw / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_text("not a sound")
    flv = raw / "VideoFlash" / "1002_DFA_SAD_XX.flv"
    flv.write_bytes(flv.read_bytes()[: flv.stat().st_size // 2])
    soundfile.write(raw / "AudioWAV" / "1003_DFA_SAD_XX.wav", np.zeros(32000), 16000)
    with pytest.raises(PrepError, match=r"3 source files cannot be used, max_bad = 2") as caught:
        cremad.prepare(raw, tmp_path / "out", frame_size=SIZE, execution=Execution(max_bad=2))
    for words in (
        "1001_DFA_ANG_XX.wav: not decodable",
        "1002_DFA_SAD_XX.flv: cut off",
        "SAD_XX.wav: silent",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE, execution=Execution(max_bad=3))
    assert sum(read_spec(out).splits.values()) == 60
    assert len(excluded(out)) == 4


@pytest.mark.parametrize("folder", ["AudioWAV", "VideoFlash"])
def test_missing_and_empty_folders_are_named(raw: Path, tmp_path: Path, folder: str) -> None:
    shutil.rmtree(raw / folder)
    with pytest.raises(FileNotFoundError, match=f"{folder}: not found"):
        cremad.prepare(raw, tmp_path / "out")
    (raw / folder).mkdir()
    with pytest.raises(PrepError, match=rf"{folder}: holds no \.\w+ files"):
        cremad.prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_clip_is_left_out_and_hidden_files_are_not_looked_at(
    raw: Path, tmp_path: Path
) -> None:
    (raw / "AudioWAV" / "._1001_DFA_ANG_XX.wav").write_text("what some systems leave in archives")
    (raw / "AudioWAV" / "1001_DFA_JOY_XX.wav").write_text("x")
    out = cremad.prepare(raw, tmp_path / "out", frame_size=SIZE, modalities=["audio"])
    assert sum(read_spec(out).splits.values()) == 63
    assert set(excluded(out)) == {media.NOT_A_CLIP, "1001_DFA_JOY_XX"}
    assert "with an emotion of NEU, HAP, SAD, FEA, DIS, ANG" in excluded(out)["1001_DFA_JOY_XX"]


def test_one_actor_cannot_be_split(tmp_path: Path) -> None:
    media.write_cremad(tmp_path / "raw", ["1076"], ["DFA"])
    for folder, ending in cremad.FOLDERS.values():
        for path in (tmp_path / "raw" / folder).glob(f"1064*{ending}"):
            path.unlink()
    with pytest.raises(PrepError, match=r"only 1 groups \['1076'\]"):
        cremad.prepare(tmp_path / "raw", tmp_path / "out", frame_size=SIZE)


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "speaker"},
        {"seed": -1},
        {"lists": [Path("x")]},
        {"frame_size": 8},
    ],
)
def test_settings_out_of_range_are_refused(
    archive: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    with pytest.raises(PrepError, match=r"must be|goes by lists"):
        cremad.prepare(archive, tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
