"""data_prep.sets.npz: what arrays are follows from their shape.

What cannot be used names the file and the array.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import make_arrays, write_arrays
from PIL import Image

from data_prep.errors import PrepError
from data_prep.files.makers import Source, make_sample
from data_prep.pipeline.execution import Execution
from data_prep.sets import npz
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_recipes, read_spec, samples_path

REAL = Path(__file__).parents[4] / "shared" / "data" / "paired"
KINDS = {
    "hydraulic": {"series"}, "leaves100": {"vector"}, "mfeat": {"vector"}, "rosmap": {"vector"},
    "utdmhad": {"series", "image"}, "wikipedia": {"vector"},
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    return npz.prepare(write_arrays(folder / "set.npz"), folder / "out")


def test_what_is_stored(prepared: Path) -> None:
    spec, arrays = read_spec(prepared), make_arrays()
    assert (spec.name, spec.classes, spec.splits) == ("npz", ("0", "1"), {"train": 32, "test": 16})
    kinds = {
        modality.name: (modality.kind, modality.shape, modality.dtype)
        for modality in spec.modalities
    }
    assert kinds == {
        "lab": ("vector", (5,), "float32"),
        "motion": ("series", (2, 9), "float32"),
        "photo": ("image", (3, 8, 8), "uint8"),
        "grey": ("image", (1, 8, 6), "uint8"),
    }
    train = arrays["split"] == "train"
    stored = {name: np.load(prepared / "train" / f"{name}.npy") for name in kinds}
    np.testing.assert_array_equal(stored["lab"], arrays["lab"][train])
    np.testing.assert_array_equal(stored["motion"], arrays["motion"][train].transpose(0, 2, 1))
    np.testing.assert_array_equal(stored["photo"], arrays["photo"][train].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(stored["grey"][:, 0], arrays["grey"][train])
    assert load_split(prepared, "test").labels.tolist() == arrays["y"][~train].tolist()


def test_normalised_by_the_train_split(prepared: Path) -> None:
    """A vector by feature, a series by channel, an image by one mean and deviation of all its
    values.
    """
    stored = {modality.name: modality for modality in read_spec(prepared).modalities}
    for name, axes in (("lab", (0,)), ("motion", (0, 2)), ("photo", None), ("grey", None)):
        array = np.load(prepared / "train" / f"{name}.npy").astype(np.float64)
        np.testing.assert_allclose(np.squeeze(stored[name].mean), array.mean(axes), rtol=1e-6)
        np.testing.assert_allclose(np.squeeze(stored[name].std), array.std(axes), rtol=1e-6)


def test_the_sample_table(prepared: Path) -> None:
    """Ids are row numbers; a group is a person, but the last sample's, which is unknown."""
    arrays = make_arrays()
    rows = np.flatnonzero(arrays["split"] == "test")
    with samples_path(prepared, "test").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [str(row) for row in rows]
    assert [row["group"] for row in table] == [
        *(str(arrays["group"][row]) for row in rows[:-1]),
        "row 47",
    ]
    assert table[0]["source"] == "set.npz#lab[2];set.npz#motion[2];set.npz#photo[2];set.npz#grey[2]"


def test_chosen_arrays_labels_and_names(tmp_path: Path) -> None:
    file = write_arrays(tmp_path / "set.npz")
    chosen = {
        "modalities": ["grey", "lab"],
        "label": "y_colour",
        "classes": ["red", "green", "blue"],
    }
    arrays = make_arrays() | {"split": np.where(np.arange(48) < 30, "train", "test")}
    write_arrays(file, **arrays)
    spec = read_spec(npz.prepare(file, tmp_path / "out", **chosen))
    assert (spec.modality_names, spec.classes) == (("grey", "lab"), ("red", "green", "blue"))
    assert load_split(tmp_path / "out", "train").labels.tolist() == [row % 3 for row in range(30)]


def test_other_numbers_are_stored_as_float32_and_half_precision_stays(tmp_path: Path) -> None:
    base = make_arrays()
    changes = {"lab": base["lab"].astype(np.float16), "motion": (10 * base["motion"]).astype(np.int64),
               "photo": base["photo"] / 255, "grey": base["lab"].astype(np.float64)}  # fmt: skip
    spec = read_spec(npz.prepare(write_arrays(tmp_path / "set.npz", **changes), tmp_path / "out"))
    kinds = {modality.name: (modality.kind, modality.dtype) for modality in spec.modalities}
    assert kinds == {
        "lab": ("vector", "float16"), "motion": ("series", "float32"), "photo": ("image", "float32"),
        "grey": ("vector", "float32"),
    }  # fmt: skip


def test_a_sample_of_nan_lacks_the_modality_and_a_hole_is_counted(tmp_path: Path) -> None:
    """Row 0 has no lab, row 1 has nothing at all of lab and motion, which are chosen, and row 3 has
    a hole.
    """
    arrays = make_arrays()
    arrays["lab"][[0, 1]] = np.nan
    arrays["motion"][1] = np.nan
    arrays["motion"][3, 2, 1] = np.nan
    file, chosen = write_arrays(tmp_path / "set.npz", **arrays), {"modalities": ["lab", "motion"]}
    with pytest.raises(
        PrepError, match=r"set\.npz: array 'motion', row 3: 1 of 18 values are not finite"
    ):
        npz.prepare(file, tmp_path / "out", **chosen)
    out = npz.prepare(file, tmp_path / "out", execution=Execution(max_bad=1), **chosen)
    samples = load_split(out, "train")
    assert samples.has[:2].tolist() == [[False, True], [True, True]]
    with (out / "excluded.csv").open(newline="") as table:
        assert [(row["id"], row["reason"].split(",")[0]) for row in csv.DictReader(table)] == [
            ("1", "has none of the modalities."),
            ("3", "set.npz: array 'motion'"),
        ]


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"y": None}, {}, "array 'y' is missing, found lab, motion"),
        ({"y": np.zeros((48, 1), int)}, {}, r"array 'y' is int64 \[48, 1\], expected integers or words, one"),
        ({"y": np.zeros(48, int)}, {}, r"array 'y': all labels are \[0\]"),
        ({"y": np.where(np.arange(48) == 2, 7, np.arange(48) % 2)}, {}, "no sample of the train split is '7'"),
        ({"split": None}, {}, "array 'split' is missing"),
        ({"split": np.full(48, "dev")}, {}, "array 'split': 'dev' is not one of train, val, test"),
        ({"split": np.full(48, "train")}, {}, "array 'split': no sample is 'test'"),
        ({"split": np.full(47, "train")}, {}, r"array 'split' is <U5 \[47\], expected integers or words of 48"),
        ({"group": np.zeros(48)}, {}, r"array 'group' is float64 \[48\]"),
        ({"lab": np.full((48, 2), "x")}, {}, r"array 'lab' is <U1 \[48, 2\], expected numbers"),
        ({"lab": np.zeros((48, 2, 2, 2))}, {}, r"array 'lab' is float64 \[48, 2, 2, 2\]; one sample must be \[feat"),
        ({"lab": np.zeros((48, 0))}, {}, r"array 'lab' is float64 \[48, 0\], expected numbers"),
        ({"lab": np.zeros((47, 2))}, {"modalities": ["lab"]}, r"array 'lab' is \[47, 2\], a modality must be \[48, "),
        ({}, {"modalities": ["smell"]}, "'smell' is no modality or named twice; there are lab, motion"),
        ({}, {"modalities": ["lab", "lab"]}, "'lab' is no modality or named twice"),
        ({}, {"modalities": ["y_colour"]}, "'y_colour' is no modality"),
        ({}, {"modalities": []}, "no modality among its arrays"),
        ({}, {"label": "y_smell"}, "array 'y_smell' is missing"),
        ({}, {"classes": ["a", "b", "c"]}, r"classes \['a', 'b', 'c'\]: must be 2 different names, of \[0, 1\]"),
        ({"lab": np.full((48, 2), None)}, {}, r"array 'lab' is not readable without unpickling"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    file = write_arrays(tmp_path / "set.npz", **changes)
    with pytest.raises(PrepError, match=words):
        npz.prepare(file, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz: not found"):
        npz.prepare(tmp_path / "none.npz", tmp_path / "out")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(PrepError, match=r"one\.npy: not a whole NPZ file"):
        npz.prepare(tmp_path / "one.npy", tmp_path / "out")
    whole = write_arrays(tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrepError, match=r"set\.npz: not a whole NPZ file"):
        npz.prepare(tmp_path / "set.npz", tmp_path / "out")


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = write_arrays(tmp_path / "set.npz")
    npz.prepare(file, tmp_path / "one")
    write_arrays(file, lab=make_arrays()["lab"] + 1)
    npz.prepare(file, tmp_path / "two")
    one, two = (np.load(tmp_path / name / "train" / "lab.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one + 1, rtol=1e-6)
    with pytest.raises(PrepError, match="other settings: npz_sha256"):
        npz.prepare(file, tmp_path / "one")


def test_files_become_what_is_stored(prepared: Path, tmp_path: Path) -> None:
    """One sample of the set in a file of its own.

    Numbers as NPY, a square colour image as PNG too.
    """
    arrays, recipes = make_arrays(), read_recipes(prepared)
    row = int(np.flatnonzero(arrays["split"] == "test")[3])
    for modality in read_spec(prepared).modalities:
        sample, file = arrays[modality.name][row], tmp_path / f"{modality.name}.npy"
        if modality.name == "photo":
            file = file.with_suffix(".png")
            Image.fromarray(sample).save(file)
        else:
            np.save(file, sample)
        made = make_sample(Source(file), modality, recipes[modality.name])
        np.testing.assert_array_equal(made, np.load(prepared / "test" / f"{modality.name}.npy")[3])
    np.save(tmp_path / "grey.npy", arrays["grey"][row].astype(float))
    grey = read_spec(prepared).modalities[3]
    with pytest.raises(
        PrepError, match=r"grey\.npy: holds float64 \[8, 6\], expected uint8 \[8, 6\]"
    ):
        make_sample(Source(tmp_path / "grey.npy"), grey, recipes["grey"])


@pytest.mark.parametrize("name", list(KINDS))
def test_real_sets(name: str, tmp_path: Path) -> None:
    file = REAL / f"{name}.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not there: third-party data that is no part of the project")
    spec = read_spec(npz.prepare(file, tmp_path / "out"))
    assert {modality.kind for modality in spec.modalities} == KINDS[name]
    assert len(load_split(tmp_path / "out", "train")) == spec.splits["train"]
