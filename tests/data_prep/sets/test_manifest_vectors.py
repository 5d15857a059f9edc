"""data_prep.sets.manifest: feature vectors from columns and from files, prepared, trained on and
predicted from.
"""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federated import federate

from data_prep.errors import PrepError
from data_prep.files.raw_samples import chunks, match
from data_prep.pipeline.execution import Execution
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import features_of, kind_of, parse_modalities
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_recipes, read_spec
from fedcmi_flwr.data.views import AS_STORED

MODALITIES = {"lab": "vector:age,bmi", "gait": "vector"}
Rows = list[dict[str, str]]


def patients(count: int = 36) -> Rows:
    """Return healthy and ill people in turn, told by both columns and by their files.

    A third is for testing.
    """
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        ill, split = number % 2, ("train", "train", "test")[number // 2 % 3]
        age, bmi = rng.normal((40 + 30 * ill, 22 + 8 * ill), 2)
        rows.append({"id": f"p{number}", "label": ("healthy", "ill")[ill], "split": split, "age": f"{age:.2f}",
                     "bmi": f"{bmi:.2f}", "gait": f"gait/{number}.npy"})  # fmt: skip
    return rows


def write(raw: Path, rows: Rows, name: str = "samples.csv") -> Path:
    """Write a manifest, and a file for each gait that it names."""
    (raw / "gait").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for row in rows:
        ill = row["label"] == "ill"
        if row["gait"]:
            np.save(raw / row["gait"], rng.normal(2 * ill, 1, 6))
    path = raw / name
    if path.suffix == ".parquet":
        numbers = {name: [float(row[name] or "nan") for row in rows] for name in ("age", "bmi")}
        pd.DataFrame(rows).assign(**numbers).to_parquet(path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_options() -> None:
    assert parse_modalities(["lab=vector:age, bmi", "gait=vector"]) == {
        "lab": "vector:age, bmi",
        "gait": "vector",
    }
    assert (kind_of("vector:age, bmi"), features_of("vector:age, bmi")) == (
        "vector",
        ("age", "bmi"),
    )
    assert (kind_of("image"), features_of("image")) == ("image", ())


@pytest.mark.parametrize(
    "option",
    [
        "lab=vector:",
        "lab=vector:age,,bmi",
        "lab=image:age",
        "lab=vector:age,age",
        "lab=vector:age,label",
    ],
)
def test_columns_that_cannot_be_features(option: str) -> None:
    with pytest.raises(PrepError, match=f"modality '{option}': "):
        parse_modalities([option, "gait=vector"])


@pytest.mark.parametrize("name", ["samples.csv", "samples.parquet"])
def test_columns_and_files_become_vectors(tmp_path: Path, name: str) -> None:
    """What is stored is what the cells say.

    Mean and deviation are those of the train split, feature by feature.
    """
    rows = patients()
    out = manifest.prepare(
        write(tmp_path / "raw", rows, name), tmp_path / "raw", tmp_path / "out", MODALITIES
    )
    lab, gait = read_spec(out).modalities
    assert (lab.kind, lab.shape, lab.dtype) == ("vector", (2,), "float32")
    assert (gait.kind, gait.shape, gait.dtype) == ("vector", (6,), "float32")
    stored = np.load(out / "train" / "lab.npy")
    expected = [[float(row["age"]), float(row["bmi"])] for row in rows if row["split"] == "train"]
    np.testing.assert_allclose(stored, expected, rtol=1e-6)
    np.testing.assert_allclose(lab.mean, stored.mean(0), rtol=1e-5)
    np.testing.assert_allclose(lab.std, stored.std(0), rtol=1e-4)
    shown = AS_STORED.show(
        load_split(out, "train").batch(np.arange(24), ("lab", "gait")).inputs["gait"], gait, None
    )
    assert shown.shape == (24, 6)


def test_empty_cells_are_a_modality_that_is_lacked_and_some_are_counted(tmp_path: Path) -> None:
    rows = patients()
    rows[0].update(age="", bmi=" ")
    rows[1].update(age="NaN", bmi="")
    rows[3].update(bmi="")
    path = write(tmp_path / "raw", rows)
    with pytest.raises(
        PrepError, match=r"samples\.csv:4: bmi missing beside values of the same vector"
    ):
        manifest.prepare(path, tmp_path / "raw", tmp_path / "out", MODALITIES)
    out = manifest.prepare(
        path, tmp_path / "raw", tmp_path / "out", MODALITIES, execution=Execution(max_bad=1)
    )
    samples = load_split(out, "train")
    assert samples.has[:3].tolist() == [[False, True], [False, True], [True, True]]
    assert np.load(out / "train" / "lab.npy")[0].tolist() == [0, 0]
    assert read_spec(out).splits == {"train": 23, "test": 12}
    assert "p3" in (out / "excluded.csv").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"age": "old"}, r"row 3 \(id 'p2'\), column 'age': 'old' is no finite number"),
        ({"age": "inf"}, "column 'age': 'inf' is no finite number"),
        (
            {"age": "", "bmi": "", "gait": ""},
            r"row 3 .*: has none of age, bmi, gait; remove the row",
        ),
    ],
)
def test_faulty_cells_are_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    rows = patients()
    rows[2].update(changes)
    with pytest.raises(PrepError, match=words):
        manifest.prepare(
            write(tmp_path / "raw", rows), tmp_path / "raw", tmp_path / "out", MODALITIES
        )


def test_a_missing_column_and_another_number_of_features(tmp_path: Path) -> None:
    path = write(tmp_path / "raw", patients())
    with pytest.raises(PrepError, match="column 'weight' is missing"):
        manifest.prepare(
            path, tmp_path / "raw", tmp_path / "out", {**MODALITIES, "lab": "vector:age,weight"}
        )
    np.save(tmp_path / "raw" / "gait" / "5.npy", np.zeros(7))
    with pytest.raises(PrepError, match=r"5\.npy: 7 features, expected are 6"):
        manifest.prepare(path, tmp_path / "raw", tmp_path / "out", MODALITIES)


def test_files_of_one_sample_become_what_is_stored(tmp_path: Path) -> None:
    """A CSV with the columns by name, in another order; and the sample's own NPY."""
    rows = patients()
    out = manifest.prepare(
        write(tmp_path / "raw", rows), tmp_path / "raw", tmp_path / "out", MODALITIES
    )
    (tmp_path / "p4.csv").write_text(f"bmi,age\n{rows[4]['bmi']},{rows[4]['age']}\n")
    given = [f"lab={tmp_path / 'p4.csv'}", f"gait={tmp_path / 'raw' / rows[4]['gait']}"]
    recipes = read_recipes(out)
    found = match(given, recipes)
    [chunk] = chunks(found.samples, read_spec(out).modalities, recipes, {})
    row = [each["id"] for each in rows if each["split"] == rows[4]["split"]].index("p4")
    for name in ("lab", "gait"):
        np.testing.assert_array_equal(
            chunk.inputs[name][0], np.load(out / rows[4]["split"] / f"{name}.npy")[row]
        )
    with pytest.raises(PrepError, match=r"may be one of \['gait', 'lab'\]; give gait="):
        match([str(tmp_path / "p4.csv")], recipes)


@pytest.mark.parametrize("encoders", ["mlp", "linear", "lab=linear gait=mlp"])
def test_encoders_of_vectors_learn(tmp_path: Path, encoders: str) -> None:
    out = manifest.prepare(
        write(tmp_path / "raw", patients(72)), tmp_path / "raw", tmp_path / "out", MODALITIES
    )
    options = {
        "encoder": encoders,
        "method": "late-fusion",
        "local-epochs": 4,
        "num-server-rounds": 5,
    }
    run = federate(tmp_path / "run", out, ["lab+gait", "lab", "gait"], **options)
    for server_round in range(1, 6):
        run.round(server_round)
        assert run.strategy.report.refused == []
    accuracies = run.evaluate(5)
    assert min(accuracies["accuracy.fused"], accuracies["accuracy.lab only"]) > 0.8
