"""Devices and their server prepare their data each for itself.

What they must agree on, and what may differ.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tabular import write_manifest, write_photo, write_tokenizer

from data_prep.errors import PrepError
from data_prep.sets import manifest
from data_prep.sets.federation import Federation, describe, read_federation
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_recipes, read_spec

KINDS = {"photo": "image", "motion": "series", "words": "text", "lab": "vector:age,bmi"}
HEADER = "id,label,split,photo,motion,words,age,bmi\n"
SERVER = HEADER + "a,walk,test,a.png,a.csv,flood,40,20\nb,fall,test,b.png,b.csv,help,50,25\n"
Change = Callable[[Path], object]


def write_files(raw: Path, table: str) -> Path:
    """Write a manifest, and images and series of the names that it may hold.

    Return the manifest.
    """
    raw.mkdir(exist_ok=True)
    for number, name in enumerate("abcd"):
        write_photo(raw / f"{name}.png", (20 + 60 * number, 90, 30), (12, 10), seed=number)
        np.savetxt(raw / f"{name}.csv", np.arange(12.0).reshape(6, 2) * (number + 1), delimiter=",")
    (raw / "samples.csv").write_text(table)
    return raw / "samples.csv"


def prepare(
    raw: Path, out: Path, role: str | None, federation: Federation | None = None, **options: object
) -> Path:
    return manifest.prepare(
        raw / "samples.csv",
        raw,
        out,
        **{"modalities": {}, "role": role, "federation": federation, **options},  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> Path:
    """Return the server's directory: test samples of two of three classes."""
    folder = tmp_path_factory.mktemp("server")
    write_files(folder / "raw", SERVER)
    sizes = Sizes(image_size=8, points=4, tokens=6, tokenizer=tokenizer)
    classes = ["run", "walk", "fall"]
    return prepare(
        folder / "raw", folder / "out", "server", modalities=KINDS, sizes=sizes, classes=classes
    )


@pytest.fixture(scope="module")
def federation(server: Path) -> Federation:
    describe(server, server.with_name("federation.json"))
    return read_federation(server.with_name("federation.json"))


def test_the_server_needs_test_samples_only(server: Path, federation: Federation) -> None:
    spec = read_spec(server)
    assert (spec.splits, spec.classes) == ({"test": 2}, ("run", "walk", "fall"))
    motion = spec.modalities[1]
    # Of channels 0, 2, ... 10 and 1, 3, ... 11, once and doubled
    assert motion.mean == pytest.approx((7.5, 9.0))
    assert (federation.modalities, federation.kinds) == (spec.modalities, KINDS)


@pytest.mark.parametrize(
    ("table", "stored"),
    [
        ("id,label,split,photo\nx,run,train,c.png\ny,run,train,d.png\n", ["photo"]),
        ("id,label,split,motion,photo\nx,walk,train,c.csv,\n", ["photo", "motion"]),
        ("id,label,split,words\nx,fall,train,flood help\n", ["words"]),
        ("id,label,split,bmi,age,words\nx,fall,val,24,60,\n", ["words", "lab"]),
        (HEADER + "x,fall,test,c.png,c.csv,flood,60,24\n", list(KINDS)),
    ],
    ids=["one modality of one class", "an empty column", "text", "columns of a vector", "all"],
)
def test_a_device_stores_what_it_has_as_the_server_does(
    federation: Federation, server: Path, tmp_path: Path, table: str, stored: list[str]
) -> None:
    write_files(tmp_path / "raw", table)
    out = prepare(tmp_path / "raw", tmp_path / "out", "device", federation)
    mine, theirs = read_spec(out), read_spec(server)
    assert (mine.name, mine.classes) == (theirs.name, theirs.classes)
    assert mine.modalities == tuple(each for each in theirs.modalities if each.name in stored)
    assert read_recipes(out) == {name: read_recipes(server)[name] for name in stored}


def test_some_columns_of_a_vector_are_not_dropped(federation: Federation, tmp_path: Path) -> None:
    write_files(tmp_path / "raw", "id,label,split,age,words\nx,fall,val,60,help\n")
    with pytest.raises(PrepError, match=r"lacks column 'bmi' of vector 'lab'.*federation\.json"):
        prepare(tmp_path / "raw", tmp_path / "out", "device", federation)


def test_the_same_file_is_the_same_sample_there_and_here(
    federation: Federation, server: Path, tmp_path: Path
) -> None:
    write_files(tmp_path / "raw", SERVER)
    out = prepare(tmp_path / "raw", tmp_path / "out", "device", federation)
    for name in KINDS:
        assert np.array_equal(
            load_split(out, "test").arrays[name], load_split(server, "test").arrays[name]
        )


def _other_tokenizer(raw: Path) -> str:
    shutil.copytree(write_tokenizer(raw / "t"), raw / "u")
    with (raw / "u" / "vocab.txt").open("a") as file:
        file.write("storm\n")
    return str(raw / "u")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"sizes": {"image_size": 16}},
            r"image_size = 16 here, 8 in .*federation\.json for 'photo'",
        ),
        ({"sizes": {"points": 5}}, r"points = 5 here, 4 in .*federation\.json for 'motion'"),
        ({"sizes": {"tokens": 7}}, r"tokens = 7 here, 6 in .*federation\.json for 'words'"),
        (
            {"sizes": {"tokenizer": _other_tokenizer}},
            r"tokenizer = .* here, another one in .*federation\.json",
        ),
        (
            {"classes": ["walk", "run"]},
            r"classes \['walk', 'run'\] here, \['run', 'walk', 'fall'\] in .*federation",
        ),
        (
            {"modalities": {"photo": "video"}},
            r"'photo': 'video' here, 'image' in .*federation\.json",
        ),
        ({"modalities": {"lab": "vector:age"}}, r"'lab': 'vector:age' here, 'vector:age,bmi' in"),
        (
            {"modalities": {"voice": "audio"}},
            r"'voice': 'audio' here, no such modality, only \['photo'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_is_asked_for_otherwise_names_both_sides(
    federation: Federation, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    write_files(tmp_path / "raw", SERVER)
    sizes = options.get("sizes", {})
    assert isinstance(sizes, dict)
    asked = {
        **options,
        "sizes": {key: each(tmp_path) if callable(each) else each for key, each in sizes.items()},
    }
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path / "raw", tmp_path / "out", "device", federation, **asked)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "id,label,split,photo\nx,swim,train,c.png\n",
            r"'swim' is not one of the classes .* of .*federation\.json",
        ),
        (
            "id,label,split,voice\nx,run,train,c.wav\n",
            r"no column of \['photo', .* the modalities of .*federation",
        ),
        (
            "id,label,split,motion\nx,run,train,three.csv\n",
            r"three\.csv has 3 channels .*federation\.json says 2",
        ),
    ],
)
def test_what_is_there_otherwise_names_both_sides(
    federation: Federation, tmp_path: Path, table: str, words: str
) -> None:
    write_files(tmp_path / "raw", table)
    (tmp_path / "raw" / "three.csv").write_text("1,2,3\n4,5,6\n")
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path / "raw", tmp_path / "out", "device", federation)


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("device", "a device's data must agree with the server's: give --federation FILE"),
        ("phone", "for 'phone': must be device or server"),
        ("server", "no modality: give --modality NAME=KIND"),
    ],
)
def test_roles_without_what_they_need(tmp_path: Path, role: str, words: str) -> None:
    write_files(tmp_path / "raw", SERVER)
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path / "raw", tmp_path / "out", role)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id,label,split,photo\na,run,train,a.png\nb,walk,train,b.png\n", "no row is 'test'"),
        (
            "id,label,split,photo\na,run,test,a.png\n",
            r"there must be two or more classes; name all .* as --classes",
        ),
        (
            "id,label,split,photo,motion\na,run,test,a.png,\nb,walk,test,b.png,\n",
            "nothing else says how large",
        ),
    ],
)
def test_a_server_that_cannot_be_one(tmp_path: Path, table: str, words: str) -> None:
    write_files(tmp_path / "raw", table)
    kinds = {name: KINDS[name] for name in ("photo", "motion") if name in table}
    with pytest.raises(PrepError, match=words):
        prepare(
            tmp_path / "raw",
            tmp_path / "out",
            "server",
            modalities=kinds,
            sizes=Sizes(image_size=8),
        )


def _renamed(path: Path) -> None:
    content = json.loads(path.read_text())
    content["recipes"]["photo"]["maker"] = "array"
    path.write_text(json.dumps(content))


def _resized(path: Path) -> None:
    content = json.loads(path.read_text())
    content["recipes"]["photo"]["size"] = 9
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_text("{}"), "not the description of a federation"),
        (lambda path: path.write_text("photo"), "not the description of a federation"),
        (
            lambda path: path.write_text(path.read_text().replace('"walk"', "7")),
            r"class \d is 7; names are text",
        ),
        (_renamed, "modality 'photo' is made by 'array', which a manifest's are not"),
        (_resized, r"'photo' is uint8 \[3, 8, 8\], but its recipe makes uint8 \[3, 9, 9\]"),
    ],
)
def test_a_broken_description_says_so(
    federation: Federation, tmp_path: Path, change: Change, words: str
) -> None:
    path = Path(shutil.copy(federation.path, tmp_path / "broken.json"))
    write_files(tmp_path / "raw", "id,label,split,photo\nx,run,train,c.png\n")
    change(path)
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path / "raw", tmp_path / "out", "device", read_federation(path))


def test_all_data_of_a_simulation_describe_devices_too(tmp_path: Path) -> None:
    raw = write_manifest(tmp_path / "raw", 12).parent
    kinds = {"photo": "image", "motion": "series"}
    out = manifest.prepare(
        raw / "samples.csv", raw, tmp_path / "out", kinds, sizes=Sizes(image_size=8, points=4)
    )
    assert describe(out, tmp_path / "federation.json").kinds == kinds
