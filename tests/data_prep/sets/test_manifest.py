"""data_prep.sets.manifest: three modalities from one table, CSV or Parquet, with cells that are
empty.
"""

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pandas as pd
import pytest
import soundfile
from media import write_video
from tabular import MANIFEST_MODALITIES, WORDS, write_manifest, write_tokenizer
from typer.testing import Result

from data_prep.errors import PrepError
from data_prep.pipeline.execution import Execution
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes, parse_modalities
from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.schema import read_spec, samples_path

SMALL = Sizes(image_size=16, seconds=0.5, points=32)
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("own")).parent


@pytest.fixture
def raw(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the files that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "raw"))


@pytest.fixture(scope="module")
def prepared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(archive, tmp_path_factory.mktemp("out") / "out")


def prepare(
    raw: Path, out: Path, modalities: dict[str, str] = MANIFEST_MODALITIES, **changes: object
) -> Path:
    options = {"sizes": SMALL, **changes}
    return manifest.prepare(raw / "samples.csv", raw, out, modalities, **options)


def rows_of(raw: Path) -> Rows:
    with (raw / "samples.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(raw: Path, rows: Rows) -> None:
    with (raw / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def files(directory: Path) -> dict[str, str]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def test_description(prepared: Path) -> None:
    spec = read_spec(prepared)
    assert (spec.name, spec.classes, spec.splits) == (
        "manifest",
        ("fall", "walk"),
        {"train": 40, "test": 20},
    )
    kinds = {
        modality.name: (modality.kind, modality.shape, modality.dtype)
        for modality in spec.modalities
    }
    assert kinds == {
        "photo": ("image", (3, 16, 16), "uint8"),
        "motion": ("series", (3, 32), "float32"),
        "voice": ("spectrogram", (1, 257, 48), "float16"),  # 8000 samples: 7488 / 159 + 1 windows
    }
    assert spec.settings["audio"] == {"seconds": 0.5}
    assert {"pillow", "soundfile", "numpy"} <= spec.tools.keys()


@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_are_the_rows_of_the_manifest(archive: Path, prepared: Path, split: str) -> None:
    rows = [row for row in rows_of(archive) if row["split"] == split]
    with samples_path(prepared, split).open(newline="") as file:
        stored = list(csv.DictReader(file))
    assert [(row["id"], row["group"]) for row in stored] == [
        (row["id"], row["group"]) for row in rows
    ]
    assert [row["label"] for row in stored] == [str(int(row["label"] == "walk")) for row in rows]
    for row, own in zip(stored, rows, strict=True):
        has = [name for name in MANIFEST_MODALITIES if own[name]]
        assert row["modalities"] == "+".join(has)
        assert row["source"] == ";".join(own[name] for name in has)
    samples = load_split(prepared, split)
    assert not samples.has.all()
    assert samples.has.tolist() == [
        [bool(row[name]) for name in MANIFEST_MODALITIES] for row in rows
    ]


def test_series_are_channels_of_resampled_points_and_measured(
    archive: Path, prepared: Path
) -> None:
    """A line stays a line.

    Mean and deviation are over the train samples that have a motion, channel by channel.

    The second channel is 1 everywhere, which is 0 after normalisation.
    """
    rows = [row for row in rows_of(archive) if row["split"] == "train"]
    motion = np.load(prepared / "train" / "motion.npy")
    line = np.linspace(0, 1, 32)
    has = np.array([bool(row["motion"]) for row in rows])
    for number, row in enumerate(rows):
        if not row["motion"]:
            assert not motion[number].any()
            continue
        assert motion[number, 1].tolist() == [1.0] * 32
        np.testing.assert_allclose(motion[number, 2], 9.81 - line, rtol=1e-6)
        if row["label"] == "fall":
            np.testing.assert_allclose(motion[number, 0], line, atol=1e-6)
    spec = read_spec(prepared).modalities[1]
    assert spec.mean == pytest.approx(motion[has].mean(axis=(0, 2)), rel=1e-5)
    assert spec.std == pytest.approx([motion[has, 0].std(), 1, motion[has, 2].std()], rel=1e-5)


def test_sound_and_images_are_what_their_labels_say(archive: Path, prepared: Path) -> None:
    """Tones of 880 and 330 Hz.

    The strongest of 257 frequencies, 31.25 Hz apart, is number 28 or 11.
    """
    rows = [row for row in rows_of(archive) if row["split"] == "test"]
    samples = load_split(prepared, "test")
    voices, photos = samples.arrays["voice"].astype(np.float32), samples.arrays["photo"]
    for number, row in enumerate(rows):
        if row["voice"]:
            strongest = voices[number, 0].mean(axis=1).argmax()
            assert strongest == (28 if row["label"] == "fall" else 11)
        if row["photo"]:
            red, _, blue = photos[number, :, 8, 8].astype(int)
            assert (red > blue) == (row["label"] == "fall")


def test_parquet_gives_the_same_arrays_and_samples(
    raw: Path, prepared: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(raw / "samples.csv", dtype=str)  # empty cells become null
    assert table.isna().any().any()
    table.to_parquet(raw / "samples.parquet")
    out = manifest.prepare(
        raw / "samples.parquet", raw, tmp_path / "out", MANIFEST_MODALITIES, sizes=SMALL
    )
    expected, found = files(prepared), files(out)
    expected.pop("dataset.json"), found.pop("dataset.json")  # it has the manifest's hash
    assert found == expected


@pytest.mark.parametrize("dtype", ["int64", "int8", "category"])
def test_integer_labels_are_sorted_as_numbers(raw: Path, tmp_path: Path, dtype: str) -> None:
    table = pd.read_csv(raw / "samples.csv", dtype=str)
    table["label"] = [str((2, 10, -1)[number % 3]) for number in range(len(table))]
    table["label"] = table["label"].astype("int64").astype(dtype)
    table["split"] = ["train"] * 30 + ["test"] * 30
    table.drop(columns="group").to_parquet(raw / "samples.parquet", index=False)
    out = manifest.prepare(
        raw / "samples.parquet", raw, tmp_path / "out", MANIFEST_MODALITIES, sizes=SMALL
    )
    assert read_spec(out).classes == ("-1", "2", "10")
    assert load_split(out, "train").labels[:3].tolist() == [1, 2, 0]
    assert load_split(out, "train").sources[:2].tolist() == ["s000", "s001"]


def test_classes_in_the_order_that_is_asked_for(raw: Path, tmp_path: Path) -> None:
    out = prepare(raw, tmp_path / "out", classes=["walk", "fall"])
    assert read_spec(out).classes == ("walk", "fall")
    assert load_split(out, "train").labels[:2].tolist() == [1, 0]


def test_video_text_and_sound_of_other_formats(tmp_path: Path) -> None:
    """Text cells hold the text, quoted where it has commas.

    Sound comes from FLAC, and from a video's soundtrack.
    """
    raw, rows = tmp_path / "raw", []
    raw.mkdir()
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    tone = (0.4 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)).astype(np.float32)
    for number in range(4):
        write_video(raw / f"{number}.mp4", 20, "mpeg4", sound=tone, sound_rate=16000)
        soundfile.write(raw / f"{number}.flac", tone, 16000)
        text = ("Flood, help!", "RT flood", "", "line\nbridge")[number]
        cells = {
            "clip": f"{number}.mp4",
            "note": text,
            "sound": f"{number}.{('mp4', 'flac')[number % 2]}",
        }
        rows.append(
            {
                "id": str(number),
                "label": f"c{number % 2}",
                "split": ("train", "test")[number // 2],
                **cells,
            }
        )
    write_rows(raw, rows)
    kinds = {"clip": "video", "note": "text", "sound": "audio"}
    sizes = Sizes(image_size=24, seconds=1.0, frames=4, tokens=8, tokenizer=str(tokenizer))
    out = prepare(raw, tmp_path / "out", kinds, sizes=sizes)
    spec = read_spec(out)
    assert [modality.shape for modality in spec.modalities] == [(4, 3, 24, 24), (8,), (1, 257, 98)]
    texts = [
        [WORDS[t] for t in row if t]
        for split in ("train", "test")
        for row in np.load(out / split / "note.npy")
    ]
    assert texts[0] == ["[CLS]", "flood", ",", "help", "!", "[SEP]"]
    assert texts[1] == ["[CLS]", "[UNK]", "flood", "[SEP]"]  # no tweet: nothing is taken out
    assert texts[2:] == [[], ["[CLS]", "[UNK]", "bridge", "[SEP]"]]
    assert load_split(out, "test").has[:, 1].tolist() == [False, True]
    sounds = np.load(out / "train" / "sound.npy").astype(np.float32)
    assert sounds[:, 0].mean(axis=2).argmax(axis=1).tolist() == [32, 32]  # 1000 / 31.25
    frames = np.load(out / "train" / "clip.npy")
    assert np.ptp(frames[0, :, 0, 2, 12].astype(int)) > 20  # the upper half grows lighter


Change = Callable[[Rows], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r[3].update(id="s001"), r"row 4 \(id 's001'\), column 'id': row 2 has this id too"),
        (lambda r: r[3].update(id=" "), r"row 4 \(id ''\), column 'id': empty"),
        (lambda r: r[3].update(label=""), r"row 4 \(id 's003'\), column 'label': empty"),
        (lambda r: r[3].update(split="dev"), r"row 4 .*, column 'split': 'dev' is not one of train, val, test"),
        (lambda r: r[4].update(label="run"), r"row 5 .*, column 'label': no sample of the train split is 'run'"),
        (lambda r: r[3].update(photo="../x.png"), r"row 4 .*, column 'photo': '\.\./x\.png' leaves .*raw"),
        (lambda r: r[3].update(photo="a/../../x.png"), r"column 'photo': 'a/\.\./\.\./x\.png' leaves .*raw"),
        (lambda r: r[3].update(photo="/etc/passwd"), r"row 4 .*, column 'photo': '/etc/passwd' leaves .*raw"),
        (lambda r: r[3].update(photo="photos"), r"row 4 .*, column 'photo': .*raw/photos is not there"),
        (lambda r: r[3].update(voice="voices/x.wav"), r"row 4 .*, column 'voice': .*voices/x\.wav is not there"),
        (lambda r: r[3].update(photo="", motion=" ", voice=""), r"row 4 .*: has none of photo, motion, voice; remove"),
        (lambda r: [row.update(split="train") for row in r], "column 'split': no row is 'test'"),
        (lambda r: [row.update(label="walk") for row in r], r"all labels are \['walk'\]: there must be two or more"),
        (lambda r: [row.update(motion="") for row in r], "column 'motion': all cells are empty; leave it out"),
        (lambda r: [row.pop("motion") for row in r], r"column 'motion' is missing, found \['id', 'label', 'split', 'g"),
        (lambda r: [row.pop("split") for row in r], "column 'split' is missing"),
    ],
)  # fmt: skip
def test_faulty_rows_are_named(raw: Path, tmp_path: Path, change: Change, words: str) -> None:
    rows = rows_of(raw)
    change(rows)
    write_rows(raw, rows)
    with pytest.raises(PrepError, match=words):
        prepare(raw, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.lock", "raw"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file, expected a header"),
        (b"id,label,split,photo,motion,voice\n", "column 'split': no row is 'train'"),
        (
            b"id,label,split,photo,motion,voice\na,b,train,c.png\n",
            "row 1 has 4 cells, the header 6; quote cells",
        ),
        (b"id,label,split,photo,photo,motion,voice\n", "column 'photo' occurs more than once"),
        (b"id,label\n\xff\xfe", "not UTF-8 at byte 9"),
        (b'id,label\n"a', "the row that begins at line 2 is no CSV"),
    ],
)
def test_faulty_tables_are_named(raw: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (raw / "samples.csv").write_bytes(content)
    with pytest.raises(PrepError, match=rf"samples\.csv(: |, ){words}"):
        prepare(raw, tmp_path / "out")


def test_what_is_not_there_or_no_parquet_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "samples.parquet").write_bytes(b"no parquet")
    with pytest.raises(PrepError, match=r"samples\.parquet: not readable as Parquet"):
        manifest.prepare(raw / "samples.parquet", raw, tmp_path / "out", MANIFEST_MODALITIES)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: not found, expected a manifest"):
        manifest.prepare(raw / "nowhere.csv", raw, tmp_path / "out", MANIFEST_MODALITIES)
    with pytest.raises(FileNotFoundError, match="nowhere: not found, expected a directory"):
        manifest.prepare(
            raw / "samples.csv", raw / "nowhere", tmp_path / "out", MANIFEST_MODALITIES
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["photo=image"], r"modalities \['photo'\]: there must be two or more"),
        (["photo=image", "photo=audio"], "'photo' is given twice"),
        (["photo=image", "label=text"], "'label' is given twice, or no modality's name"),
        (
            ["photo=image", "voice=sound"],
            "NAME=KIND with one of the kinds audio, image, series, table, text, ve",
        ),
        (["photo=image", "voice"], "must be NAME=KIND"),
        (["photo=image", "a+b=audio"], r"modality 'a\+b'"),
        (["photo=image", "=audio"], "modality ''"),
    ],
)
def test_faulty_modalities_are_named(options: list[str], words: str) -> None:
    with pytest.raises((PrepError, DataError), match=words):
        parse_modalities(options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["walk"]}, r"column 'label': 'fall' is not one of the classes \['walk'\]"),
        ({"classes": ["walk", "fall", "run"]}, "must be each label of the manifest once"),
        ({"sizes": Sizes(points=1)}, "points = 1"),
        ({"sizes": Sizes(seconds=0.0)}, r"seconds = 0\.0"),
        ({"sizes": Sizes(image_size=0)}, "image size 0"),
    ],
)
def test_faulty_options_are_named(
    raw: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(PrepError, match=words):
        prepare(raw, tmp_path / "out", **changes)


def test_unusable_files_are_counted_and_do_not_say_how_many_channels_there_are(
    raw: Path, tmp_path: Path
) -> None:
    """Four samples lose one file each; the first series is one of them."""
    (raw / "motion" / "000.csv").write_text("1,2\n3\n")
    (raw / "motion" / "008.csv").write_text("1,2\n3,4\n")
    (raw / "photos" / "001.png").write_bytes(b"")
    (raw / "voices" / "003.wav").write_text("no sound")
    with pytest.raises(PrepError, match="4 source files cannot be used"):
        prepare(raw, tmp_path / "out", execution=Execution(max_bad=3))
    out = prepare(raw, tmp_path / "out", execution=Execution(max_bad=4))
    with (out / "excluded.csv").open(newline="") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(reasons) == ["s000", "s001", "s003", "s008"]
    assert reasons["s008"] == "008.csv: 2 channels, expected are 3."
    assert sum(read_spec(out).splits.values()) == 56


def test_no_series_that_can_be_read_is_an_error(raw: Path, tmp_path: Path) -> None:
    for path in (raw / "motion").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        PrepError, match=r"motion: none of its 54 files can be read, the last one because: .*059"
    ):
        prepare(raw, tmp_path / "out", execution=Execution(max_bad=60))


def test_a_changed_manifest_needs_another_directory(raw: Path, tmp_path: Path) -> None:
    out = prepare(raw, tmp_path / "out")
    assert prepare(raw, out) == out
    write_rows(raw, rows_of(raw)[:-1])
    with pytest.raises(PrepError, match="was prepared with other settings: manifest_sha256"):
        prepare(raw, out)


def test_columns_that_nobody_asked_for_are_not_looked_at(
    raw: Path, prepared: Path, tmp_path: Path
) -> None:
    write_rows(raw, [{**row, "remark": "x"} for row in rows_of(raw)])
    out = prepare(raw, tmp_path / "out", {"photo": "image", "voice": "audio"})
    assert read_spec(out).modality_names == ("photo", "voice")
    assert files(out)["train/photo.npy"] == files(prepared)["train/photo.npy"]


def run_cli(raw: Path, out: Path, *options: str) -> Result:
    sizes = ["--image-size", "16", "--seconds", "0.5", "--points", "32"]
    kinds = [
        part
        for name, kind in MANIFEST_MODALITIES.items()
        for part in ("--modality", f"{name}={kind}")
    ]
    paths = ["--manifest", str(raw / "samples.csv"), "--raw", str(raw), "--out", str(out)]
    return commands.fedcmi("prep", "manifest", *paths, *kinds, *sizes, *options)


def test_the_command_gives_the_same_bytes_with_two_workers(
    archive: Path, prepared: Path, tmp_path: Path
) -> None:
    done = run_cli(archive, tmp_path / "out", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "out") == files(prepared)
    assert "5 groups (person0, person1, person2, ...) in both train and test" in done.stdout
    assert "without voice" in done.stdout


def test_the_command_names_what_is_wrong(raw: Path, tmp_path: Path) -> None:
    (raw / "photos" / "000.png").unlink()
    failed = run_cli(raw, tmp_path / "out")
    assert failed.exit_code == 1
    assert "row 1 (id 's000'), column 'photo':" in failed.stderr
    assert "photos/000.png is not there" in failed.stderr


def test_a_link_to_another_disk_is_followed(raw: Path, prepared: Path, tmp_path: Path) -> None:
    (raw / "photos").rename(tmp_path / "elsewhere")
    (raw / "photos").symlink_to(tmp_path / "elsewhere")
    assert files(prepare(raw, tmp_path / "out")) == files(prepared)
