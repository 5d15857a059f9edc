"""The contract of a prepared directory: what does not keep it is refused by name, with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from fedcmi_flwr.dataset import DataError, load_split
from fedcmi_flwr.schema import SchemaError, read_spec, write_spec

COUNT = 60


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a directory to spoil: 60 samples of three classes."""
    return oracle.prepare(tmp_path / "toy", {name: np.ones(COUNT, dtype=bool) for name in ("audio", "visual")})


def test_a_description_reads_back(copied: Path) -> None:
    spec = read_spec(copied)
    assert (spec.classes, spec.modality_names, spec.splits) == (
        ("c0", "c1", "c2"),
        ("audio", "visual"),
        {"train": 60, "test": 60},
    )
    assert (spec.modalities[0].shape, spec.modalities[0].mean, spec.modalities[0].std) == ((1, 16, 16), 0.5, 2.0)
    (copied / "again").mkdir()
    write_spec(copied / "again", spec)
    assert read_spec(copied / "again") == spec


def _edit(name: str, value: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return edit


def _save(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def save(directory: Path) -> None:
        path = directory / "train" / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return save


def _rename_column(directory: Path) -> None:
    path = directory / "train" / "samples.csv"
    path.write_text(path.read_text().replace("modalities", "streams", 1))


def _cut_csv(directory: Path) -> None:
    path = directory / "train" / "samples.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:10]) + "\n")


def _truncate(directory: Path) -> None:
    path = directory / "train" / "audio.npy"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda d: (d / "train" / "audio.npy").unlink(), DataError, r"audio\.npy: missing"),
        (lambda d: (d / "train" / "labels.npy").unlink(), DataError, r"labels\.npy: missing"),
        (lambda d: (d / "train" / "samples.csv").unlink(), DataError, r"samples\.csv: missing"),
        (lambda d: (d / "dataset.json").unlink(), FileNotFoundError, r"dataset\.json: not found.*fedcmi prep"),
        (lambda d: (d / "dataset.json").write_text("{nonsense"), SchemaError, "not a dataset description"),
        (lambda d: (d / "dataset.json").write_text("[1]"), SchemaError, "not a dataset description"),
        (lambda d: (d / "dataset.json").write_text('{"schema_version": 1}'), SchemaError, "not a dataset description"),
        (_edit("schema_version", 2), SchemaError, "schema version 2, this release reads 1"),
        (_edit("colour", "red"), SchemaError, "not a dataset description.*colour"),
        (_edit("classes", ["one"]), SchemaError, "two or more classes"),
        (_edit("classes", ["a", "b"]), SchemaError, "labels from 0 to 2, but there are 2 classes"),
        (_edit("splits", {"test": 60}), DataError, r"no split 'train', only \['test'\]"),
        (_edit("splits", {"train": 61}), SchemaError, "has 60 samples, dataset.json says 61"),
        (_edit("modalities", []), SchemaError, "at least one modality"),
        (_save("audio", lambda a: a[:-1]), SchemaError, "audio has 59 samples, dataset.json says 60"),
        (_save("audio", lambda a: a[:, :, :8]), SchemaError, r"audio has samples of shape \(1, 8, 16\).*\(1, 16, 16\)"),
        (_save("labels", lambda a: a[:-1]), SchemaError, "labels has 59 samples"),
        (_save("labels", lambda a: a + 1), SchemaError, "labels from 1 to 3, but there are 3 classes"),
        (_save("labels", lambda a: a - 1), SchemaError, "labels from -1 to 1"),
        (_save("labels", lambda a: a.astype(np.int32)), SchemaError, "int32"),
        (_save("labels", lambda a: a + 0.5), SchemaError, "float64"),
        (_cut_csv, SchemaError, "samples has 9 samples"),
        (_rename_column, SchemaError, "modalities"),
        (_truncate, (SchemaError, DataError), r"audio\.npy"),
    ],
)
def test_a_spoilt_directory_is_refused(copied: Path, spoil: Any, error: Any, words: str) -> None:  # noqa: ANN401
    assert len(load_split(copied, "train")) == COUNT
    spoil(copied)
    with pytest.raises(error, match=words):
        load_split(copied, "train")


@pytest.mark.parametrize(
    ("field", "value", "words"), [("kind", "smell", "'smell', not one of"), ("std", 0.0, "std 0.0")]
)
def test_a_modality_out_of_range_is_refused(copied: Path, field: str, value: object, words: str) -> None:
    modalities = json.loads((copied / "dataset.json").read_text())["modalities"]
    _edit("modalities", [{**modalities[0], field: value}, modalities[1]])(copied)
    with pytest.raises(SchemaError, match=f"'audio'.*{words}"):
        read_spec(copied)
