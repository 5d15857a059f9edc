"""data_prep.inspection, summary and contact sheet.

What is said and drawn of any prepared directory.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from rich.console import Console
from stored import StoredSplit, store
from toy_archive import prepare_toys, write_archive
from typer.testing import CliRunner

from data_prep.inspection.contact_sheet import choose_samples, write_contact_sheet
from data_prep.inspection.summary import Overlap, render, summarise
from data_prep.pipeline.plan import Exclusion
from data_prep.pipeline.reasons import Reason
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import KINDS, DatasetSpec, ModalitySpec
from server_app.commands.main import app

TOKENS = np.array([2, 7, 8, 3, 0, 0], np.int32)


def everything(out: Path) -> Path:
    """Prepare one modality of each kind.

    The second of four train samples lacks all but the image.
    """
    arrays = {
        "spectrogram": np.linspace(-1, 1, 4 * 60).reshape(4, 1, 6, 10).astype(np.float16),
        "image": np.full((4, 3, 8, 8), 200, np.uint8),
        "frames": np.arange(4 * 5 * 3 * 64, dtype=np.uint8).reshape(4, 5, 3, 8, 8),
        "tokens": np.tile(TOKENS, (4, 1)),
        "series": np.zeros((4, 2, 9), np.float32),
        "vector": np.ones((4, 3), np.float32),
    }
    present = {name: np.array([True, False, True, True]) for name in arrays if name != "image"}
    specs = [
        ModalitySpec(name, name, array.shape[1:], array.dtype.name)
        for name, array in arrays.items()
    ]

    def split(start: int) -> StoredSplit:
        ids = [f"s{number}" for number in range(start, start + 4)]
        groups = [f"g{number}" for number in range(start // 2, start // 2 + 4)]
        return StoredSplit(
            ids, np.array([0, 0, 1, 0]), groups, dict.fromkeys(arrays, ids), arrays, present
        )

    bad = [
        Exclusion("a", "train", "x/a.wav;a.flv", "a.flv: cut off"),
        Exclusion("b", "test", "x/b.wav;b.flv", "no good: a rule"),
        Exclusion("c", "test", "x/c.wav;c.flv", "c.flv: cut off"),
    ]
    spec = DatasetSpec("all", "classification", ("no", "yes"), tuple(specs), {}, {}, {})
    return store(out, spec, {"test": split(4), "train": split(0)}, bad)


def test_counts(tmp_path: Path) -> None:
    """Groups are g0 to g3 in train and g2 to g5 in test.

    A header of 128 bytes stands before each array.
    """
    summary = summarise(everything(tmp_path / "out"))
    assert list(summary.counts) == ["train", "test"]
    assert {split: counts.tolist() for split, counts in summary.counts.items()} == {
        "train": [3, 1],
        "test": [3, 1],
    }
    assert summary.missing["train"] == {
        "spectrogram": 1,
        "image": 0,
        "frames": 1,
        "tokens": 1,
        "series": 1,
        "vector": 1,
    }
    assert summary.groups == {"train": 4, "test": 4}
    assert summary.overlaps == [Overlap(("train", "test"), ["g2", "g3"])]
    assert summary.excluded == [
        Reason("cut off", ["a", "c"], ["a.flv", "c.flv"]),
        Reason("no good: a rule", ["b"], ["x/b.wav;b.flv"]),
    ]
    assert summary.stored["image"] == 2 * (128 + 4 * 3 * 8 * 8)


def shown(directory: Path) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(render(summarise(directory)))
    return console.file.getvalue()


def test_what_is_shown(tmp_path: Path) -> None:
    text = shown(everything(tmp_path / "out"))
    words = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    for line in (
        "image image 3 x 8 x 8 uint8 1.8 kB",
        "samples 4 4",
        "no 3 3",
        "yes 1 1",
        "without tokens 1 1",
        "groups 4 4",
        "2 groups (g2, g3) in both train and test",
        "excluded: 2 samples (a, c): cut off",
        "excluded: 1 sample (b): no good: a rule",
    ):
        assert line in words, text
    assert "without image" not in text


def test_a_clean_directory_says_so(tmp_path: Path) -> None:
    """Toys 0 and 1 are for training and 2 is for testing, each of its own group."""
    write_archive(tmp_path / "raw", 3)
    text = shown(prepare_toys(tmp_path / "raw", tmp_path / "out"))
    assert "no group is in two splits" in text
    assert "nothing was excluded" in text


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    arrays = {"m": np.ones((2, 1, 2))}
    split = StoredSplit(["a", "b"], np.array([0, 1]), ["[bold]x[/]", "y"], {"m": ["", ""]}, arrays)
    modality = ModalitySpec("m", "series", (1, 2), "float64")
    spec = DatasetSpec("d", "classification", ("[red]", "b"), (modality,), {}, {}, {})
    text = shown(store(tmp_path / "out", spec, {"train": split, "test": split}))
    assert "[red]" in text
    assert "2 groups ([bold]x[/], y) in both train and test" in text


def test_a_sheet_has_a_complete_and_an_incomplete_sample_of_each_class(tmp_path: Path) -> None:
    samples = load_split(everything(tmp_path / "out"), "train")
    assert [choose_samples(samples, label) for label in (0, 1)] == [[0, 1], [2]]
    write_archive(tmp_path / "raw", 40)
    toys = load_split(prepare_toys(tmp_path / "raw", tmp_path / "toys"), "train")
    for label in (0, 1):
        first, second = choose_samples(toys, label)
        assert toys.labels[[first, second]].tolist() == [label, label]
        assert sorted(toys.has[[first, second]].all(axis=1).tolist()) == [False, True]


def test_every_kind_is_drawn(tmp_path: Path) -> None:
    """All images are (200, 200, 200).

    That grey covers a cell of each of the three samples that are drawn.
    """
    out = everything(tmp_path / "out")
    assert {modality.kind for modality in load_split(out, "train").modalities} == set(KINDS)
    picture = imread(write_contact_sheet(out, tmp_path / "new" / "sheet.png"))
    assert picture.shape[0] > 300
    assert picture.shape[1] > 2 * 5 * 200
    grey = (np.abs(picture[..., :3] - 200 / 255) < 0.002).all(axis=-1)
    assert grey.sum() > 3 * 100 * 100


def test_a_sheet_is_always_the_same(tmp_path: Path) -> None:
    out = everything(tmp_path / "out")
    one, two = (
        write_contact_sheet(out, tmp_path / name).read_bytes() for name in ("one.png", "two.png")
    )
    assert one == two


def test_inspect_shows_and_draws(av_digits_dir: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["inspect", str(av_digits_dir), "--sheet", str(tmp_path / "sheet.png")]
    )
    assert done.exit_code == 0, done.output
    assert "groups (line-00" in done.output
    assert f"contact sheet: {tmp_path / 'sheet.png'}" in done.output
    assert imread(tmp_path / "sheet.png").std() > 0.1
    out = everything(tmp_path / "out")
    done = CliRunner().invoke(app, ["inspect", str(out)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.png").is_file()


def test_inspect_of_something_else_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert done.exit_code == 1
    assert "is not a finished prepared directory" in done.output
    assert not tmp_path.with_name(f"{tmp_path.name}.png").exists()


def test_a_preparation_ends_with_the_summary(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["prep", "av-digits", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "nothing was excluded" in done.output
