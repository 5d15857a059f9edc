"""data_prep.sets.crisismmd on archives in exactly its layout, made on the spot."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from tabular import (
    COLORS,
    CRISISMMD_COLUMNS,
    WORDS,
    crisismmd_row,
    write_crisismmd,
    write_split,
    write_tokenizer,
)
from typer.testing import Result

from data_prep.errors import PrepError
from data_prep.pipeline.execution import Execution
from data_prep.sets import crisismmd
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_spec, samples_path

REPOSITORY = Path(__file__).parents[3]
NEWS, CHATTER = "informative", "not_informative"
TAKEN = 1000
"""A tweet that the archive does not have."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("crisismmd")
    write_crisismmd(raw)
    return raw


@pytest.fixture
def raw(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "raw"))


@pytest.fixture(scope="module")
def prepared(archive: Path, tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crisismmd.prepare(
        archive, tmp_path_factory.mktemp("out") / "out", tokenizer=tokenizer, image_size=32
    )


def table(directory: Path, split: str) -> list[dict[str, str]]:
    with samples_path(directory, split).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def excluded(directory: Path) -> list[list[str]]:
    with (directory / "excluded.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def rows_of(raw: Path, name: str) -> list[dict[str, str]]:
    lines = (
        (raw / f"task_informative_text_img_agreed_lab_{name}.tsv")
        .read_bytes()
        .decode()
        .rstrip("\r\n")
        .split("\n")
    )
    return [
        dict(zip(CRISISMMD_COLUMNS, line.rstrip("\r").split("\t"), strict=True))
        for line in lines[1:]
    ]


def test_description(prepared: Path) -> None:
    spec = read_spec(prepared)
    assert (spec.name, spec.classes) == ("crisismmd", (CHATTER, NEWS))
    assert spec.splits == {"train": 30, "val": 7, "test": 10}
    image, text = spec.modalities
    assert (image.name, image.kind, image.shape, image.dtype) == (
        "image",
        "image",
        (3, 32, 32),
        "uint8",
    )
    assert (image.mean, image.std) == (127.5, 127.5)
    assert (text.name, text.kind, text.shape, text.dtype) == ("text", "tokens", (40,), "int32")
    assert {"tokens": 40, "image_size": 32, "keep_overlap": False}.items() <= spec.settings.items()
    assert not (prepared / "excluded.csv").exists()


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("val", "dev"), ("test", "test")])
def test_samples_are_the_rows_of_their_file(
    archive: Path, prepared: Path, split: str, name: str
) -> None:
    rows, stored = rows_of(archive, name), table(prepared, split)
    assert [row["id"] for row in stored] == [row["image_id"] for row in rows]
    assert [row["group"] for row in stored] == [row["tweet_id"] for row in rows]
    assert [row["label"] for row in stored] == [str(int(row["label"] == NEWS)) for row in rows]
    sources = [
        f"{row['image']};task_informative_text_img_agreed_lab_{name}.tsv:{n}"
        for n, row in enumerate(rows, start=2)
    ]
    assert [row["source"] for row in stored] == sources
    images = np.load(prepared / split / "image.npy")
    centres = images[:, :, 16, 16].astype(int)
    assert np.abs(centres - [COLORS[row["label"]] for row in rows]).max() < 40


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("RT @RedCross", [":", "flood", "in", "hous", "##ton", "people", "help"]),
        ("Roads closed", ["roads", "closed", ",", '"', "bridge", '"', "in", "water", "help", "!"]),
        ("Fire in", ["fire", "in", "hous", "##ton", "help", "##ing", "people"]),
        ("I love", ["[UNK]", "love", "this", "song", "!"]),
    ],
)
def test_words_after_a_url_and_quotation_marks_stay(
    archive: Path, prepared: Path, start: str, words: list[str]
) -> None:
    texts = np.load(prepared / "train" / "text.npy")
    found = [
        number
        for number, row in enumerate(rows_of(archive, "train"))
        if row["tweet_text"].startswith(start)
    ]
    assert found
    for number in found:
        pieces = [WORDS[token] for token in texts[number] if token]
        assert pieces == ["[CLS]", *words, "[SEP]"]


def test_a_quotation_mark_that_is_never_closed_ends_with_its_tweet(
    raw: Path, tokenizer: str, tmp_path: Path
) -> None:
    rows = rows_of(raw, "train")
    rows[0]["tweet_text"] = '"flood in Houston'
    write_split(raw, "train", rows)
    out = crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=8)
    assert read_spec(out).splits["train"] == 30
    assert WORDS[np.load(out / "train" / "text.npy")[0, 1]] == '"'


def test_empty_cells_and_texts_without_words_are_missing_modalities(
    raw: Path, tokenizer: str, tmp_path: Path
) -> None:
    rows = rows_of(raw, "train")
    rows[0]["tweet_text"], rows[1]["tweet_text"], rows[2]["image"] = "", "https://t.co/a", ""
    rows[3]["tweet_text"] = rows[3]["image"] = " "
    write_split(raw, "train", rows)
    out = crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=8)
    samples = load_split(out, "train")
    assert samples.has[:4].tolist() == [[True, False], [True, False], [False, True], [True, True]]
    assert not samples.arrays["text"][:2].any()
    assert not samples.arrays["image"][2].any()
    assert excluded(out) == [
        [
            rows[3]["image_id"],
            "train",
            "task_informative_text_img_agreed_lab_train.tsv:5",
            "has no image and no text",
            "",
        ]
    ]
    images = crisismmd.prepare(
        raw, tmp_path / "images", tokenizer="none is needed", modalities=["image"], image_size=8
    )
    assert [row[3] for row in excluded(images)] == ["has no image", "has no image"]
    assert read_spec(images).modality_names == ("image",)


@pytest.mark.parametrize("keep", [False, True])
def test_tweets_of_a_later_split_are_dropped_from_the_earlier_ones(
    raw: Path, tokenizer: str, tmp_path: Path, keep: bool
) -> None:
    train, dev, test = (rows_of(raw, name) for name in ("train", "dev", "test"))
    write_split(raw, "train", [*train, {**test[2], "image_id": "a"}, {**dev[2], "image_id": "b"}])
    write_split(raw, "dev", [*dev, {**test[2], "image_id": "c"}])
    out = crisismmd.prepare(
        raw, tmp_path / "out", tokenizer=tokenizer, keep_overlap=keep, image_size=8
    )
    if keep:
        assert read_spec(out).splits == {"train": 32, "val": 8, "test": 10}
        assert not (out / "excluded.csv").exists()
        return
    assert read_spec(out).splits == {"train": 30, "val": 7, "test": 10}
    assert [[row[0], row[1], row[3]] for row in excluded(out)] == [
        ["a", "train", "its tweet is in the test split too"],
        ["b", "train", "its tweet is in the val split too"],
        ["c", "val", "its tweet is in the test split too"],
    ]


def test_rows_whose_labels_differ_are_listed_and_hold_no_tweet_back(
    raw: Path, tokenizer: str, tmp_path: Path
) -> None:
    """The row of the test split that is left out does not keep its tweet out of the train split."""
    train, test = rows_of(raw, "train"), rows_of(raw, "test")
    train[1]["label_image"] = CHATTER if train[1]["label"] == NEWS else NEWS
    doubtful = {
        **train[0],
        "image_id": "d",
        "label_text": CHATTER if train[0]["label"] == NEWS else NEWS,
    }
    write_split(raw, "train", train)
    write_split(raw, "test", [*test, doubtful])
    out = crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=8)
    assert [(row[0], row[1]) for row in excluded(out)] == [
        (train[1]["image_id"], "train"),
        ("d", "test"),
    ]
    assert {row[3] for row in excluded(out)} == {"text and image are labelled differently"}
    assert table(out, "train")[0]["id"] == train[0]["image_id"]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "gone"])
def test_unusable_photographs_are_counted(
    raw: Path, tokenizer: str, tmp_path: Path, damage: str
) -> None:
    row = rows_of(raw, "train")[4]
    photo = raw / row["image"]
    if damage == "gone":
        photo.unlink()
    else:
        photo.write_bytes(
            {"empty": b"", "cut": photo.read_bytes()[:300], "text": b"<html>"}[damage]
        )
    with pytest.raises(PrepError, match=rf"1 source files cannot be used.*\n.*{photo.name}"):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=8)
    assert not (tmp_path / "out").exists()
    out = crisismmd.prepare(
        raw, tmp_path / "out", tokenizer=tokenizer, image_size=8, execution=Execution(max_bad=1)
    )
    assert [(entry[0], entry[1]) for entry in excluded(out)] == [(row["image_id"], "train")]
    assert read_spec(out).splits["train"] == 29


def test_split_files_in_the_folder_of_their_archive_are_found(
    raw: Path, prepared: Path, tokenizer: str, tmp_path: Path
) -> None:
    (raw / crisismmd.SPLIT_FOLDER).mkdir()
    for path in raw.glob("*.tsv"):
        path.rename(raw / crisismmd.SPLIT_FOLDER / path.name)
    out = crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=32)
    assert files(out) == files(prepared)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def change(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def test_a_header_without_a_column_is_refused(raw: Path, tokenizer: str, tmp_path: Path) -> None:
    change(raw / "task_informative_text_img_agreed_lab_train.tsv", "tweet_text", "text")
    with pytest.raises(
        PrepError, match=r"_train\.tsv: column 'tweet_text' is missing, found \['event_name'"
    ):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            f"\t{NEWS}\t",
            "\tyes\t",
            "column 'label': 'yes' is not one of not_informative, informative",
        ),
        (f"\t{NEWS}\n", "\n", "8 cells, the header has 9"),
        ("data_image/", "../data_image/", "column 'image': '../data_image/"),
        ("data_image/", "/data_image/", "column 'image': '/data_image/"),
        ("\t917791044158185473\t", "\t\t", "column 'tweet_id' is empty"),
    ],
)
def test_a_faulty_row_is_left_out_and_listed(
    raw: Path, tokenizer: str, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    change(raw / "task_informative_text_img_agreed_lab_train.tsv", old, new)
    out = crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer, image_size=8)
    assert read_spec(out).splits == {"train": 29, "val": 7, "test": 10}
    ((_, split, place, found, _),) = excluded(out)
    assert (split, place[:-1]) == ("train", "task_informative_text_img_agreed_lab_train.tsv:")
    assert found.startswith(reason)


@pytest.mark.parametrize("content", [b"", b"\n", "\t".join(CRISISMMD_COLUMNS).encode() + b"\r\n"])
def test_an_empty_split_file_is_an_error(
    raw: Path, tokenizer: str, tmp_path: Path, content: bytes
) -> None:
    (raw / "task_informative_text_img_agreed_lab_dev.tsv").write_bytes(content)
    with pytest.raises(
        PrepError, match=r"task_informative_text_img_agreed_lab_dev\.tsv: (holds no rows|column)"
    ):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer)


def test_missing_parts_are_named(raw: Path, tokenizer: str, tmp_path: Path) -> None:
    write_split(raw, "test", [crisismmd_row(TAKEN, 0, NEWS, "flood")])
    (raw / "task_informative_text_img_agreed_lab_dev.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PrepError, match=r"_dev\.tsv: not UTF-8 text"):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer)
    (raw / "task_informative_text_img_agreed_lab_dev.tsv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"_dev\.tsv: not found, nor in crisismmd_datasplit_agreed_label"
    ):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer)
    shutil.rmtree(raw / "data_image")
    with pytest.raises(FileNotFoundError, match="data_image: not found, expected the photographs"):
        crisismmd.prepare(raw, tmp_path / "out", tokenizer=tokenizer)


def test_another_vocabulary_needs_another_directory(
    archive: Path, prepared: Path, tokenizer: str, tmp_path: Path
) -> None:
    moved = shutil.copytree(tokenizer, tmp_path / "moved")
    assert crisismmd.prepare(archive, prepared, tokenizer=str(moved), image_size=32) == prepared
    (moved / "vocab.txt").write_text("\n".join(WORDS[:-1]))
    again = shutil.copytree(moved, tmp_path / "again")
    with pytest.raises(PrepError, match="was prepared with other settings: vocabulary"):
        crisismmd.prepare(archive, prepared, tokenizer=str(again), image_size=32)


def command(raw: Path, out: Path, tokenizer: str, workers: int) -> list[str]:
    options = {"--raw": raw, "--out": out, "--tokenizer": tokenizer, "--workers": workers}
    return [
        sys.executable,
        "-m",
        "server_app.commands.main",
        "prep",
        "crisismmd",
        *(str(x) for p in options.items() for x in p),
    ]


def run_cli(raw: Path, out: Path, tokenizer: str, workers: int) -> Result:
    """Do in this process what the command line does in one of its own."""
    _, _, _, *arguments = command(raw, out, tokenizer, workers)
    return commands.fedcmi(*arguments)


def test_two_workers_and_kill_9_give_the_bytes_of_one(
    raw: Path, tokenizer: str, tmp_path: Path
) -> None:
    """The 21st photograph is a pipe that nobody writes to.

    A worker waits there for ever, until all is killed.
    """
    photo = raw / rows_of(raw, "train")[20]["image"]
    one = run_cli(raw, tmp_path / "one", tokenizer, 1)
    assert one.exit_code == 0, one.output
    whole = photo.read_bytes()
    photo.unlink()
    os.mkfifo(photo)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    waits = subprocess.Popen(command(raw, tmp_path / "two", tokenizer, 2), env=environment)
    journal = tmp_path / ".two.rows" / "journal"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    waits.kill()
    assert waits.wait() == -signal.SIGKILL
    photo.unlink()
    photo.write_bytes(whole)
    assert not (tmp_path / "two").exists()
    done = journal.read_bytes().count(b"\n")
    assert 0 < done < 47
    two = run_cli(raw, tmp_path / "two", tokenizer, 2)
    assert two.exit_code == 0, two.output
    assert "47 samples in" in two.stdout
    assert f"{done} of them were there from an interrupted call" in two.stdout
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for line in ("no group is in two splits", "nothing was excluded", "not_informative"):
        assert line in two.stdout


def test_the_command_names_what_is_wrong(raw: Path, tokenizer: str, tmp_path: Path) -> None:
    (raw / "task_informative_text_img_agreed_lab_test.tsv").write_bytes(b"")
    failed = run_cli(raw, tmp_path / "out", tokenizer, 2)
    assert failed.exit_code == 1
    assert "error:" in failed.stderr
    assert "task_informative_text_img_agreed_lab_test.tsv: holds no rows" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.lock", "raw"]
