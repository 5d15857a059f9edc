"""Image, table and text of one manifest, with missing cells.

Prepared, trained, used and shown by the commands.
"""

import json
from pathlib import Path

import commands
import numpy as np
import pytest
from people import COLUMNS, Row, write_people

from fedcmi_flwr.data.schema import read_spec
from server_app.run.directory import read_metrics

ENCODERS = "photo=small-cnn lab=mlp note=bag-of-words"


def called(*arguments: str | Path) -> str:
    done = commands.fedcmi(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, the prepared directory, and a run of two rounds."""
    folder = tmp_path_factory.mktemp("people")
    rows = write_people(folder / "raw")
    (folder / "rows.json").write_text(json.dumps(rows))
    kinds = ["photo=image", f"lab=table:{','.join(COLUMNS)}", "note=text"]
    sizes = [
        "--image-size",
        "24",
        "--tokenizer",
        "hashed:256",
        "--tokens",
        "24",
        "--categories",
        "ward",
    ]
    chosen = [part for kind in kinds for part in ("--modality", kind)]
    paths = [
        "--manifest",
        folder / "raw" / "samples.csv",
        "--raw",
        folder / "raw",
        "--out",
        folder / "data",
    ]
    said = called("prep", "manifest", *paths, *chosen, *sizes, "--workers", "1")
    assert "nothing was excluded" in said
    assert "without lab" in said
    keys = [f"encoder={ENCODERS}", "local-epochs=8", "batch-size=8", "partition=iid", "min-partition-size=2",
            "fraction-train=1.0", "torch-threads=1"]  # fmt: skip
    sets = [part for key in keys for part in ("--set", key)]
    given = [
        "--data",
        folder / "data",
        "--run-dir",
        folder / "run",
        "--rounds",
        "2",
        "--num-nodes",
        "2",
    ]
    called("run", *given, "--engine", "in-process", "--method", "late-fusion", *sets)
    return folder


def rows_of(folder: Path, split: str) -> list[Row]:
    rows = json.loads((folder / "rows.json").read_text())
    return [row for row in rows if row["split"] == split]


def cells_file(folder: Path, row: Row) -> Path:
    """Write the cells of a row as a device would have them: one CSV, in another order."""
    names = ("ward", "sex", "bmi", "age")
    path = folder / f"{row['id']}.csv"
    path.write_text(f"{','.join(names)}\n{','.join(row[name] for name in names)}\n")
    return path


def said_of_files(folder: Path, *files: str | Path) -> dict:
    (found,) = json.loads(called("predict", folder / "run", *files, "--json", "--device", "cpu"))[
        "predictions"
    ]
    return dict(found)


def test_what_is_stored(folder: Path) -> None:
    """Two numbers with masks, two sexes and two wards with one each.

    The mask says where cells are missing.
    """
    photo, lab, note = read_spec(folder / "data").modalities
    assert (photo.kind, lab.kind, lab.shape, note.kind) == (
        "image",
        "vector",
        (2 + 2 + 3 + 3,),
        "tokens",
    )
    stored, rows = np.load(folder / "data" / "train" / "lab.npy"), rows_of(folder, "train")
    known = [number for number, row in enumerate(rows) if any(row[column] for column in COLUMNS)]
    missing = [[not rows[number][column] for column in COLUMNS] for number in known]
    assert stored[known][:, [1, 3, 6, 9]].astype(bool).tolist() == missing
    assert any(map(any, missing))


def test_two_rounds_learn_from_all_three(folder: Path) -> None:
    records = read_metrics(folder / "run")
    assert [record["round"] for record in records] == [0, 1, 2]
    assert [record["refused"] for record in records[1:]] == [[], []]
    counts = records[2]["counts"]
    for way in ("fused", "lab only", "photo only", "note only"):
        assert sum(counts[way]["correct"]) / sum(counts[way]["count"]) > 0.8, way


def test_files_with_missing_cells_are_predicted_as_they_were_prepared(folder: Path) -> None:
    prepared = json.loads(
        called("predict", folder / "run", "--data", folder / "data", "--json", "--device", "cpu")
    )
    rows = rows_of(folder, "test")
    assert len(prepared["predictions"]) == len(rows)
    seen = set()
    for row, expected in zip(rows, prepared["predictions"], strict=True):
        files: list[str | Path] = []
        if row["photo"]:
            files.append(folder / "raw" / row["photo"])
        if row["note"]:
            (folder / f"{row['id']}.txt").write_text(row["note"])
            files.append(folder / f"{row['id']}.txt")
        if any(row[column] for column in COLUMNS):
            files.append(cells_file(folder, row))
        found = said_of_files(folder, *files)
        assert found["modalities"] == expected["modalities"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        seen.add((tuple(found["modalities"]), sum(not row[column] for column in COLUMNS)))
    assert {("photo", "lab", "note"), ("photo", "note")} <= {names for names, _ in seen}
    assert {0, 1, 2} <= {missing for _, missing in seen}


def test_a_table_alone_and_a_category_that_nobody_knows(folder: Path) -> None:
    row = {"id": "new", "age": "66", "bmi": "", "sex": "f", "ward": ""}
    found = said_of_files(folder, cells_file(folder, row))
    assert (found["modalities"], found["class"]) == (["lab"], "ill")
    done = commands.fedcmi("predict", folder / "run", cells_file(folder, {**row, "sex": "female"}))
    assert done.exit_code == 1
    assert "new.csv: column 'sex': 'female' is none of its categories ['f', 'm']" in done.stderr


def test_the_export_agrees_on_cells(folder: Path, tmp_path: Path) -> None:
    """A graph takes the stored vector, masks included.

    Its description has the recipe from cells to it.
    """
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    called("export", folder / "run", "--out", tmp_path / "graphs", "--modalities", "photo+lab+note")
    described = json.loads((tmp_path / "graphs" / "export.json").read_text())
    assert described["recipes"]["lab"]["categories"] == {"sex": ["f", "m"], "ward": ["7", "9"]}

    directory = folder / "data" / "test"
    session = onnxruntime.InferenceSession(
        tmp_path / "graphs" / described["graphs"][0]["file"], providers=["CPUExecutionProvider"]
    )
    rows = rows_of(folder, "test")
    whole = [
        n
        for n, row in enumerate(rows)
        if row["photo"] and row["note"] and any(row[c] for c in COLUMNS)
    ]
    inputs = {name: np.load(directory / f"{name}.npy")[whole] for name in ("photo", "lab", "note")}
    (probabilities,) = session.run(["probabilities"], inputs)

    prepared = json.loads(
        called("predict", folder / "run", "--data", folder / "data", "--json", "--device", "cpu")
    )
    expected = [
        [prepared["predictions"][n]["probabilities"][name] for name in ("ill", "well")]
        for n in whole
    ]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_it_is_shown(folder: Path, tmp_path: Path) -> None:
    called("report", folder / "run", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(f"{name} only" in page for name in ("photo", "lab", "note"))
    said = called("inspect", folder / "data", "--sheet", tmp_path / "sheet.png")
    assert "without lab" in said
    assert (tmp_path / "sheet.png").stat().st_size > 0
