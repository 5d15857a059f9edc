"""What is not as long as its recipe promises is stored, and counted by class and split wherever the
data are shown.
"""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import fedcmi
from media import write_video
from rich.console import Console
from tabular import write_tokenizer

from data_prep.errors import PrepError
from data_prep.inspection.summary import render, summarise
from data_prep.pipeline.execution import Execution
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes

KINDS = {"voice": "audio", "motion": "series"}
SIZES = Sizes(seconds=0.5, points=4)
SHORT_VOICE = "look at 3 of voice that are stored: shorter than 0.5 s, and repeated to that length"
SHORT_MOTION = "look at 2 of motion that are stored: of fewer than 4 points, and interpolated"
ROWS = (
    ("train", "walk", "whole", "four"), ("train", "fall", "short", "four"), ("test", "walk", "whole", "three"),
    ("train", "walk", "short", "three"), ("test", "fall", "short", "four"), ("train", "fall", "long", ""),
)  # fmt: skip


def write(folder: Path) -> Path:
    """Write sounds of half a second, less, and more; series of four and three points.

    And their manifest.
    """
    for name, samples in {"whole": 8000, "short": 6000, "long": 20000}.items():
        soundfile.write(folder / f"{name}.wav", 0.4 * np.sin(np.arange(samples)), 16000)
    for name, count in {"four": 4, "three": 3}.items():
        (folder / f"{name}.csv").write_text(
            "".join(f"{number},{number**2}\n" for number in range(count))
        )

    lines = [
        f"{number},{label},{split},{voice}.wav,{motion and f'{motion}.csv'}"
        for number, (split, label, voice, motion) in enumerate(ROWS)
    ]
    table = folder / "samples.csv"
    table.write_text("\n".join(["id,label,split,voice,motion", *lines]))
    return table


def prepare(table: Path, out: Path, execution: Execution) -> Path:
    return manifest.prepare(table, table.parent, out, KINDS, sizes=SIZES, execution=execution)


def remarks(directory: Path) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    console.print(render(summarise(directory)))
    lines = (line.strip() for line in console.file.getvalue().splitlines())
    return [line for line in lines if line.startswith("look at")]


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_lengths_are_counted_by_class_and_split(tmp_path: Path, workers: int) -> None:
    out = prepare(write(tmp_path), tmp_path / "out", Execution(workers))
    assert remarks(out) == [
        f"{SHORT_MOTION} (train: walk 1; test: walk 1)",
        f"{SHORT_VOICE} (train: fall 1, walk 1; test: fall 1)",
    ]
    with (out / "noted.csv").open(newline="") as file:
        listed = [(row["id"], row["split"], row["modality"]) for row in csv.DictReader(file)]
    assert listed == [
        ("1", "train", "voice"),
        ("2", "test", "motion"),
        ("3", "train", "motion"),
        ("3", "train", "voice"),
        ("4", "test", "voice"),
    ]
    shown = fedcmi("inspect", out)
    assert f"{SHORT_VOICE} (train: fall 1, walk 1; test: fall 1)" in " ".join(shown.stdout.split())


def test_what_was_decoded_before_an_interruption_is_counted_too(tmp_path: Path) -> None:
    """A broken file stops the first call.

    The second decodes that one alone, and one whose file is another by then.
    """
    table = write(tmp_path)
    whole = prepare(table, tmp_path / "whole", Execution())
    content = (tmp_path / "long.wav").read_bytes()
    (tmp_path / "long.wav").write_bytes(content[:5000])
    with pytest.raises(PrepError, match=r"long\.wav"):
        prepare(table, tmp_path / "out", Execution())

    (tmp_path / "long.wav").write_bytes(content)
    out = prepare(table, tmp_path / "out", Execution())
    assert remarks(out) == remarks(whole)
    assert (out / "noted.csv").read_bytes() == (whole / "noted.csv").read_bytes()


def test_a_file_that_is_mended_between_two_calls_is_counted_no_more(tmp_path: Path) -> None:
    table = write(tmp_path)
    content = (tmp_path / "long.wav").read_bytes()
    (tmp_path / "long.wav").write_bytes(content[:5000])
    with pytest.raises(PrepError, match=r"long\.wav"):
        prepare(table, tmp_path / "out", Execution())

    for name in ("long", "short"):
        (tmp_path / f"{name}.wav").write_bytes(content)
    assert remarks(prepare(table, tmp_path / "out", Execution())) == [
        f"{SHORT_MOTION} (train: walk 1; test: walk 1)"
    ]


def test_videos_of_few_frames_and_texts_that_are_cut_are_counted(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "words")
    write_video(tmp_path / "one.mp4", 2, "mpeg4")
    write_video(tmp_path / "many.mp4", 20, "mpeg4")
    lines = [
        "id,label,split,film,text",
        "0,a,train,one.mp4,one",
        f"1,b,train,many.mp4,{'one ' * 30}",
    ]
    (tmp_path / "samples.csv").write_text("\n".join([*lines, "2,a,test,many.mp4,one"]))
    sizes = Sizes(frames=3, image_size=32, tokens=8, tokenizer=str(tokenizer))
    out = manifest.prepare(
        tmp_path / "samples.csv",
        tmp_path,
        tmp_path / "out",
        {"film": "video", "text": "text"},
        sizes=sizes,
    )
    assert remarks(out) == [
        "look at 1 of film that are stored: of fewer than 3 different frames, some of them "
        "repeated (train: a 1)",
        "look at 1 of text that are stored: longer than 8 tokens, and cut (train: b 1)",
    ]
