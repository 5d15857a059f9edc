"""Tables of a manifest.

What its columns hold, what is stored, and what servers and devices agree on.
"""

import csv
import json
from pathlib import Path

import commands
import numpy as np
import pandas as pd
import pytest

from data_prep.errors import PrepError
from data_prep.files.makers import Source, make_sample
from data_prep.sets import manifest
from data_prep.sets.federation import Federation, describe, read_federation
from data_prep.sets.manifest_kinds import parse_modalities
from data_prep.sets.table_columns import MOST, parse_categories
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_recipes, read_spec

LAB = {"lab": "table:age,sex,ward"}
BOTH = {**LAB, "words": "text"}
Rows = list[dict[str, str]]


def people() -> Rows:
    """Return twelve people, a third for testing.

    Every fourth has no age, one no ward and one nothing but words.
    """
    rows = []
    for number in range(12):
        cells = {"age": str(30 + 5 * number), "sex": "fm"[number % 2], "ward": str(number % 3 + 7)}
        cells |= {"age": ""} if number % 4 == 3 else {}
        cells |= {"ward": "NA"} if number == 5 else {}
        cells = dict.fromkeys(cells, "") if number == 8 else cells
        split = ("train", "train", "test")[number // 2 % 3]
        rows.append({"id": f"p{number}", "label": ("ill", "well")[number % 2], "split": split,
                     "words": f"note {number}", **cells})  # fmt: skip
    return rows


def write(folder: Path, rows: Rows, name: str = "samples.csv") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        frame = pd.DataFrame(rows)
        frame.assign(age=pd.to_numeric(frame["age"])).to_parquet(path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def prepare(
    folder: Path, rows: Rows, name: str = "samples.csv", out: str = "out", **options: object
) -> Path:
    """Prepare the table and the notes; ``categories`` as on the command line."""
    said = options.pop("categories", ["ward"])
    assert isinstance(said, list)
    sizes = {"tokenizer": "hashed:64", "categories": parse_categories(said, BOTH)}
    asked = {"modalities": BOTH, "sizes": sizes, **options}
    return manifest.prepare(write(folder, rows, name), folder, folder / out, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["samples.csv", "samples.parquet"])
def test_numbers_categories_and_masks_are_stored(tmp_path: Path, name: str) -> None:
    """Ages are measured where they are known, in the train split.

    Wards are names, since that was said.
    """
    out = prepare(tmp_path, people(), name)
    lab = read_spec(out).modalities[0]
    ages = [float(row["age"]) for row in people() if row["split"] == "train" and row["age"]]
    assert (lab.kind, lab.shape, lab.dtype) == ("vector", (2 + 3 + 4,), "float32")
    assert isinstance(lab.mean, tuple)
    assert isinstance(lab.std, tuple)
    assert (lab.mean[0], lab.std[0]) == pytest.approx((np.mean(ages), np.std(ages)))
    assert (lab.mean[1:], lab.std[1:]) == ((0,) * 8, (1,) * 8)

    samples = load_split(out, "train")
    assert samples.has[:, 0].tolist() == [True] * 6 + [False, True]
    stored = np.asarray(samples.arrays["lab"])
    assert stored[0].tolist() == [30, 0, 1, 0, 0, 1, 0, 0, 0]
    assert stored[3].tolist() == pytest.approx([np.mean(ages), 1, 0, 1, 0, 1, 0, 0, 0])
    shown = samples.batch(np.array([3]), ("lab", "words")).inputs["lab"]
    assert shown[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0]


def test_a_file_of_cells_becomes_what_is_stored(tmp_path: Path) -> None:
    out = prepare(tmp_path, people())
    (tmp_path / "p3.csv").write_text("ward,age,sex\n7,,m\n")
    made = make_sample(
        Source(tmp_path / "p3.csv"), read_spec(out).modalities[0], read_recipes(out)["lab"]
    )
    assert np.array_equal(made, np.load(out / "train" / "lab.npy")[3])


def test_the_test_split_may_know_no_category_that_the_train_split_does_not(tmp_path: Path) -> None:
    rows = people()
    rows[4]["sex"] = "d"
    with pytest.raises(
        PrepError, match=r"row 5 \(id 'p4'\), column 'sex': 'd' is none of its categories"
    ):
        prepare(tmp_path, rows)
    out = prepare(tmp_path, rows, categories=["sex=..."])
    assert read_recipes(out)["lab"]["categories"]["sex"] == ["f", "m", "..."]
    assert np.load(out / "test" / "lab.npy")[0, 2:6].tolist() == [0, 0, 1, 0]
    named = prepare(tmp_path, rows, out="named", categories=["sex=m,f,d"])
    assert read_recipes(named)["lab"]["categories"]["sex"] == ["m", "f", "d"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"age": "4o"},
            r"row 3 \(id 'p2'\), column 'age': '4o' is no number, but '30' of samples.csv:1 is; correct",
        ),
        ({"age": "inf"}, r"row 3 \(id 'p2'\), column 'age': 'inf' is no finite number"),
        (
            {"age": "", "sex": "", "ward": "", "words": ""},
            "has none of age, sex, ward, words; remove the row",
        ),
    ],
)
def test_faulty_cells_are_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    rows = people()
    rows[2].update(changes)
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path, rows, categories=[])


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("age", "", "column 'age': all cells are empty, and nothing else says what it holds"),
        (
            "sex",
            "word {number}",
            f"holds {MOST + 1} different words; a text is a modality of its own",
        ),
    ],
)
def test_columns_that_say_nothing(tmp_path: Path, column: str, cell: str, words: str) -> None:
    rows = people() * ((MOST + 1) // 8 + 1)
    rows = [
        {**row, "id": str(number), column: cell.format(number=number)}
        for number, row in enumerate(rows)
    ]
    train = [row for row in rows if row["split"] == "train"][: MOST + 1]
    with pytest.raises(PrepError, match=words):
        prepare(tmp_path, train + [row for row in rows if row["split"] == "test"])


def test_a_table_that_never_changes(tmp_path: Path) -> None:
    rows = [{**row, "age": "40", "sex": "f", "ward": "7"} for row in people()]
    with pytest.raises(
        PrepError, match="never change in the train split: there is nothing to learn from"
    ):
        prepare(tmp_path, rows)


@pytest.mark.parametrize(
    "option", ["lab=table", "lab=table:", "lab=table:age,,sex", "lab=table:age,split"]
)
def test_options_that_are_no_table(option: str) -> None:
    with pytest.raises(PrepError, match=f"modality '{option}': "):
        parse_modalities([option, "words=text"])


@pytest.mark.parametrize("option", ["sex=", "sex=f,f", "sex=...,f", "weight=f", "weight"])
def test_categories_that_are_none(option: str) -> None:
    with pytest.raises(PrepError, match=f"categories '{option}': "):
        parse_categories([option], LAB)


SERVER = (
    "id,label,split,age,sex,ward,words\na,ill,test,40,f,7,feels ill\nb,well,test,50,m,8,all well\n"
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Return what a server says that has test samples only."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "samples.csv").write_text(SERVER)
    said = parse_categories(["ward=7,8,..."], BOTH)
    sizes = {"tokenizer": "hashed:64", "tokens": 12, "categories": said}
    out = manifest.prepare(
        folder / "samples.csv", folder, folder / "out", BOTH, sizes=sizes, role="server"
    )
    describe(out, folder / "federation.json")
    return read_federation(folder / "federation.json")


def on_device(folder: Path, federation: Federation, table: str, **options: object) -> Path:
    (folder / "samples.csv").write_text(table)
    asked = {"modalities": {}, "role": "device", "federation": federation, **options}
    return manifest.prepare(folder / "samples.csv", folder, folder / "out", **asked)  # type: ignore[arg-type]


def test_a_device_follows_the_servers_categories_means_and_hashes(
    federation: Federation, tmp_path: Path
) -> None:
    """A ward that the server has never seen is "..."; the mean that fills is the server's.

    The text is hashed alike.
    """
    assert federation.kinds == BOTH
    table = "id,label,split,age,sex,ward,words\nx,ill,train,,m,12,feels ill\ny,ill,train,60,,7,\n"
    out = on_device(tmp_path, federation, table)
    assert read_spec(out).modalities == federation.modalities
    assert read_recipes(out) == federation.recipes
    assert np.load(out / "train" / "lab.npy").tolist() == [
        [45, 1, 0, 1, 0, 0, 0, 1, 0],
        [60, 0, 0, 0, 1, 1, 0, 0, 0],
    ]
    servers = np.load(federation.path.with_name("out") / "test" / "words.npy")
    assert np.array_equal(np.load(out / "train" / "words.npy")[0], servers[0])
    assert "vocab" not in federation.path.read_text()
    assert json.loads(federation.path.read_text())["recipes"]["words"]["tokenizer"] == "hashed:64"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("60,d,7,", r"row 1 \(id 'x'\), column 'sex': 'd' is none of its categories \['f', 'm'\]"),
        ("old,f,7,", r"row 1 \(id 'x'\), column 'age': 'old' is no finite number"),
    ],
)
def test_cells_that_the_federation_does_not_know(
    federation: Federation, tmp_path: Path, cells: str, words: str
) -> None:
    with pytest.raises(PrepError, match=words):
        on_device(tmp_path, federation, f"id,label,split,age,sex,ward,words\nx,ill,train,{cells}\n")


def test_some_columns_of_a_table_are_not_dropped(federation: Federation, tmp_path: Path) -> None:
    with pytest.raises(
        PrepError, match=r"lacks column 'ward' of table 'lab'.*federation\.json; add it, with empty"
    ):
        on_device(tmp_path, federation, "id,label,split,age,sex,words\nx,ill,train,60,f,help\n")
    out = on_device(tmp_path, federation, "id,label,split,words\nx,ill,train,help\n")
    assert read_spec(out).modality_names == ("words",)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            {"tokenizer": "hashed:128"},
            r"tokenizer = 'hashed:128' here, 'hashed:64' in .*federation\.json for 'words'",
        ),
        (
            {"tokenizer": "bert-base-uncased"},
            r"tokenizer = 'bert-base-uncased' here, 'hashed:64' in .*federation",
        ),
        ({"tokens": 9}, r"tokens = 9 here, 12 in .*federation\.json for 'words'"),
        (
            {"categories": {"sex": ("m", "f")}},
            r"categories of 'sex': \['m', 'f'\] here, \['f', 'm'\] in .*federation",
        ),
        (
            {"categories": {"age": ()}},
            r"categories of 'age': those of the data here, numbers in .*federation\.json",
        ),
        (
            {"categories": {"sex": ("...",)}},
            r"categories of 'sex': \['\.\.\.'\] here, \['f', 'm'\] in ",
        ),
    ],
    ids=["buckets", "hashed there only", "tokens", "order", "numbers", "other"],
)
def test_what_is_asked_for_otherwise_names_both_sides(
    federation: Federation, tmp_path: Path, sizes: dict[str, object], words: str
) -> None:
    with pytest.raises(PrepError, match=words):
        on_device(tmp_path, federation, SERVER, sizes=sizes)


def test_what_is_asked_for_as_it_is(federation: Federation, tmp_path: Path) -> None:
    categories = {"ward": ("7", "8", "..."), "sex": ()}
    out = on_device(
        tmp_path, federation, SERVER, sizes={"tokenizer": "hashed:64", "categories": categories}
    )
    assert read_spec(out).splits == {"test": 2}


def test_a_device_asks_by_the_command_for_what_the_server_has(tmp_path: Path) -> None:
    """The same number of buckets and the same categories go.

    Others are refused, and nothing is written.
    """
    write(tmp_path, people())
    paths = ["--manifest", tmp_path / "samples.csv", "--raw", tmp_path, "--workers", "1"]
    kinds = [part for name, kind in BOTH.items() for part in ("--modality", f"{name}={kind}")]
    said = ["--tokenizer", "hashed:64", "--categories", "ward=7,8,9"]
    server = ["--for", "server", *kinds, *said, "--out", tmp_path / "server"]
    assert commands.fedcmi("prep", "manifest", *paths, *server).exit_code == 0
    file = tmp_path / "federation.json"
    assert commands.fedcmi("prep", "describe", tmp_path / "server", "--out", file).exit_code == 0

    device = ["--for", "device", "--federation", file, "--out", tmp_path / "device"]
    for other, words in (
        (
            ["--tokenizer", "hashed:128"],
            f"tokenizer = 'hashed:128' here, 'hashed:64' in {file} for 'words'",
        ),
        (
            ["--categories", "ward=7,8"],
            f"categories of 'ward': ['7', '8'] here, ['7', '8', '9'] in {file} for 'lab'",
        ),
    ):
        done = commands.fedcmi("prep", "manifest", *paths, *device, *other)
        assert (done.exit_code, words in done.stderr) == (1, True), done.output
        assert not (tmp_path / "device").exists()
    done = commands.fedcmi("prep", "manifest", *paths, *device, *said)
    assert done.exit_code == 0, done.output
    for name in BOTH:
        mine, theirs = (
            np.load(tmp_path / where / "train" / f"{name}.npy") for where in ("device", "server")
        )
        assert np.array_equal(mine, theirs)


def test_a_description_that_was_spoilt_by_hand(federation: Federation, tmp_path: Path) -> None:
    content = json.loads(federation.path.read_text())
    del content["recipes"]["lab"]["fill"]
    (tmp_path / "federation.json").write_text(json.dumps(content))
    with pytest.raises(PrepError, match=r"the recipe of 'lab' is none of a table \('fill'\)"):
        on_device(tmp_path, read_federation(tmp_path / "federation.json"), SERVER)
