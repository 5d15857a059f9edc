"""Samples that are likely to be mistakes.

Counted by class and split, where they are stored and where refused.
"""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from rich.console import Console
from stored import StoredSplit, store
from tabular import write_photo

from data_prep.errors import PrepError
from data_prep.inspection.summary import render, summarise
from data_prep.pipeline.execution import Execution
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, array_path, write_recipes

COUNT = 4
LABELS = np.array([0, 1, 1, 0])
WHOLE = np.random.default_rng(0)


def kinds() -> dict[str, np.ndarray]:
    """Return samples of each kind without any flaw."""
    return {
        "spectrogram": WHOLE.normal(size=(COUNT, 1, 9, 70)).astype(np.float16),
        "image": WHOLE.integers(0, 255, (COUNT, 3, 9, 9), np.uint8),
        "frames": WHOLE.integers(0, 255, (COUNT, 2, 3, 9, 9), np.uint8),
        "series": WHOLE.normal(size=(COUNT, 2, 80)).astype(np.float32),
        "tokens": np.tile(np.array([2, 7, 3], np.int32), (COUNT, 1)),
        "vector": np.ones((COUNT, 3), np.float32),
    }


def shown(directory: Path) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    console.print(render(summarise(directory)))
    return [line.strip() for line in console.file.getvalue().splitlines()]


def stored(out: Path, train: dict[str, np.ndarray]) -> Path:
    arrays = {"train": kinds(), "test": kinds()}
    specs = [
        ModalitySpec(name, name, array.shape[1:], array.dtype.name) for name, array in train.items()
    ]
    spec = DatasetSpec("all", "classification", ("no", "yes"), tuple(specs), {}, {}, {})
    ids = [f"s{number}" for number in range(COUNT)]
    splits = {
        name: StoredSplit(ids, LABELS, ids, dict.fromkeys(train, ids), part, {})
        for name, part in arrays.items()
    }
    made = store(out, spec, splits)
    for name, array in train.items():
        np.save(array_path(made, "train", name), array)
    return made


@pytest.mark.parametrize(
    ("kind", "value", "rows", "line"),
    [
        ("spectrogram", np.nan, (1,), "look at 1 of spectrogram that are stored: holding NaN or Inf (train: yes 1)"),
        ("series", np.inf, (0, 1), "look at 2 of series that are stored: holding NaN or Inf (train: no 1, yes 1)"),
        ("vector", np.nan, (3,), "look at 1 of vector that are stored: holding NaN or Inf (train: no 1)"),
        ("spectrogram", 0.5, (1, 2), "look at 2 of spectrogram that are stored: silent: one value everywhere "
             "(train: yes 2)"),
        ("image", 7, (0,), "look at 1 of image that are stored: of one colour (train: no 1)"),
        ("frames", 7, (2,), "look at 1 of frames that are stored: of one colour in all frames (train: yes 1)"),
        ("series", 2.0, (3,), "look at 1 of series that are stored: never changing (train: no 1)"),
        ("tokens", 0, (0, 3), "look at 2 of tokens that are stored: without a word (train: no 2)"),
    ],
)  # fmt: skip
def test_what_is_stored(
    tmp_path: Path, kind: str, value: float, rows: tuple[int, ...], line: str
) -> None:
    arrays = kinds()
    arrays[kind][list(rows)] = value
    assert [
        each for each in shown(stored(tmp_path / "out", arrays)) if each.startswith("look at")
    ] == [line]


def test_a_hashed_text_of_one_token_is_a_text(tmp_path: Path) -> None:
    """It has no markers; one without any token is looked at."""
    arrays = kinds()
    arrays["tokens"][:, 1:] = 0
    arrays["tokens"][2, 0] = 0
    out = stored(tmp_path / "out", arrays)
    write_recipes(out, {name: {"maker": "tokens", "tokenizer": "hashed:8"} for name in arrays})
    lines = [line for line in shown(out) if line.startswith("look at")]
    assert lines == ["look at 1 of tokens that are stored: without a word (train: yes 1)"]


def test_one_pixel_or_an_edge_is_no_constant_image(tmp_path: Path) -> None:
    arrays = kinds()
    arrays["image"][0] = 7
    arrays["image"][0, 1, 4, 5] = 8
    arrays["frames"][1] = 9
    arrays["frames"][1, 1] = 10
    assert not [
        line for line in shown(stored(tmp_path / "out", arrays)) if line.startswith("look at")
    ]


def test_each_channel_may_have_its_own_value(tmp_path: Path) -> None:
    arrays = kinds()
    arrays["image"][1] = np.array([200, 60, 30])[:, None, None]
    assert "look at 1 of image that are stored: of one colour (train: yes 1)" in shown(
        stored(tmp_path / "out", arrays)
    )


def test_what_is_refused_is_counted_by_class_and_split(tmp_path: Path) -> None:
    """Silence, a value that is no number, and another number of channels.

    All of them count against ``max_bad``.
    """
    sounds = {
        "loud": 0.4 * np.sin(np.arange(8000.0)),
        "quiet": np.zeros(8000),
        "odd": np.full(8000, np.nan),
    }
    for name, sound in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, "FLOAT")
    texts = {"two": "1,2\n3,5\n", "nan": "1,nan\n3,4\n", "three": "1,2,3\n4,5,6\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    rows = [
        ("train", "walk", "loud", "two"), ("train", "fall", "loud", "two"), ("test", "walk", "loud", "two"),
        ("train", "walk", "quiet", "two"), ("train", "fall", "quiet", "two"), ("test", "fall", "quiet", ""),
        ("train", "walk", "odd", "two"), ("test", "walk", "loud", "nan"), ("test", "fall", "", "three"),
    ]  # fmt: skip
    lines = [
        f"{number},{label},{split},{voice and f'{voice}.wav'},{motion and f'{motion}.csv'}"
        for number, (split, label, voice, motion) in enumerate(rows)
    ]
    (tmp_path / "samples.csv").write_text("\n".join(["id,label,split,voice,motion", *lines]))

    def prepare(max_bad: int) -> Path:
        kinds = {"voice": "audio", "motion": "series"}
        sizes = Sizes(seconds=0.5, points=2)
        execution = Execution(max_bad=max_bad)
        return manifest.prepare(
            tmp_path / "samples.csv",
            tmp_path,
            tmp_path / "out",
            kinds,
            sizes=sizes,
            execution=execution,
        )

    with pytest.raises(PrepError, match="6 source files cannot be used"):
        prepare(5)
    said = [line for line in shown(prepare(6)) if line.startswith("excluded")]
    assert [line.rpartition(" (")[2] for line in said] == [
        "train: walk 1, fall 1; test: fall 1)",
        "train: walk 1)",
        "test: walk 1)",
        "test: fall 1)",
    ]
    with (tmp_path / "out" / "excluded.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"walk", "fall"}


def test_a_photo_of_one_colour_is_told_by_prep(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", (90, 90, 90), (8, 8))
    write_photo(tmp_path / "b.png", (90, 190, 90), (8, 8), seed=1)
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    for name in ("a", "b", "black"):
        (tmp_path / f"{name}.csv").write_text(f"1\n{len(name)}\n")
    table = "id,label,split,photo,motion\n1,x,train,a.png,black.csv\n2,y,train,black.png,b.csv\n3,x,test,b.png,a.csv\n"
    (tmp_path / "samples.csv").write_text(table)
    kinds = {"photo": "image", "motion": "series"}
    sizes = Sizes(image_size=8, points=4)
    out = manifest.prepare(tmp_path / "samples.csv", tmp_path, tmp_path / "out", kinds, sizes=sizes)
    assert "look at 1 of photo that are stored: of one colour (train: y 1)" in shown(out)
