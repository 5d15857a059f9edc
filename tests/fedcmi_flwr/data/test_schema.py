"""The contract of a prepared directory.

What does not keep it is refused by name, with what to do.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.schema import ModalitySpec, SchemaError, read_spec, write_spec

COUNT = 60


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a directory to spoil: 60 samples of three classes."""
    return oracle.prepare(
        tmp_path / "toy", {name: np.ones(COUNT, dtype=bool) for name in ("audio", "visual")}
    )


def test_a_description_reads_back(copied: Path) -> None:
    spec = read_spec(copied)
    assert (spec.classes, spec.modality_names, spec.splits) == (
        ("c0", "c1", "c2"),
        ("audio", "visual"),
        {"train": 60, "test": 60},
    )
    assert (spec.modalities[0].shape, spec.modalities[0].mean, spec.modalities[0].std) == (
        (1, 16, 16),
        0.5,
        2.0,
    )
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
        (
            lambda d: (d / "dataset.json").unlink(),
            FileNotFoundError,
            r"dataset\.json: not found.*fedcmi prep",
        ),
        (
            lambda d: (d / "dataset.json").write_text("{nonsense"),
            SchemaError,
            "not a dataset description",
        ),
        (
            lambda d: (d / "dataset.json").write_text("[1]"),
            SchemaError,
            "not a dataset description",
        ),
        (
            lambda d: (d / "dataset.json").write_text('{"schema_version": 1}'),
            SchemaError,
            "not a dataset description",
        ),
        (_edit("schema_version", 2), SchemaError, "schema version 2, this release reads 1"),
        (_edit("colour", "red"), SchemaError, "not a dataset description.*colour"),
        (_edit("classes", ["one"]), SchemaError, "two or more classes"),
        (_edit("classes", ["a", "b"]), SchemaError, "labels from 0 to 2, but there are 2 classes"),
        (_edit("splits", {"test": 60}), DataError, r"no split 'train', only \['test'\]"),
        (_edit("splits", {"train": 61}), SchemaError, "has 60 samples, dataset.json says 61"),
        (_edit("modalities", []), SchemaError, "at least one modality"),
        (
            _save("audio", lambda a: a[:-1]),
            SchemaError,
            "audio has 59 samples, dataset.json says 60",
        ),
        (
            _save("audio", lambda a: a[:, :, :8]),
            SchemaError,
            r"audio has samples of shape \(1, 8, 16\).*\(1, 16, 16\)",
        ),
        (_save("labels", lambda a: a[:-1]), SchemaError, "labels has 59 samples"),
        (
            _save("labels", lambda a: a + 1),
            SchemaError,
            "labels from 1 to 3, but there are 3 classes",
        ),
        (_save("labels", lambda a: a - 1), SchemaError, "labels from -1 to 1"),
        (_save("labels", lambda a: a.astype(np.int32)), SchemaError, "int32"),
        (_save("labels", lambda a: a + 0.5), SchemaError, "float64"),
        (_cut_csv, SchemaError, "samples has 9 samples"),
        (_rename_column, SchemaError, "modalities"),
        (_truncate, (SchemaError, DataError), r"audio\.npy"),
    ],
)
def test_a_spoilt_directory_is_refused(copied: Path, spoil: Any, error: Any, words: str) -> None:
    assert len(load_split(copied, "train")) == COUNT
    spoil(copied)
    with pytest.raises(error, match=words):
        load_split(copied, "train")


def _spoil(copied: Path, **changes: object) -> None:
    modalities = json.loads((copied / "dataset.json").read_text())["modalities"]
    _edit("modalities", [{**modalities[0], **changes}, modalities[1]])(copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "smell"}, "'smell', not one of"),
        ({"std": 0.0}, "std 0.0"),
        ({"std": [0.0]}, r"std \(0.0,\), must be above 0"),
        ({"mean": [1.0, 2.0]}, "has 2 values of mean, must be one, or 1"),
        (
            {"kind": "frames", "shape": [4, 3, 8, 8], "std": [1.0] * 4},
            "has 4 values of std, must be one, or 3",
        ),
        (
            {"kind": "frames"},
            r"frames of shape \[1, 16, 16\], must be \[time, channels, height, width\]",
        ),
        (
            {"kind": "tokens", "shape": [8]},
            "tokens must be integers with mean 0 and std 1, found float32, 0.5 and 2.0",
        ),
        (
            {"kind": "tokens", "shape": [8], "dtype": "int32", "mean": 0.0},
            "found int32, 0.0 and 2.0",
        ),
        (
            {"kind": "vector", "shape": [8], "dtype": "int32"},
            "a vector must be float32 or float16, found int32",
        ),
        (
            {"kind": "vector", "shape": [8], "std": [1.0] * 7},
            "has 7 values of std, must be one, or 8",
        ),
        ({"kind": "vector", "shape": [8, 1]}, r"vector of shape \[8, 1\], must be \[features\]"),
    ],
)
def test_a_modality_out_of_range_is_refused(
    copied: Path, changes: dict[str, object], words: str
) -> None:
    _spoil(copied, **changes)
    with pytest.raises(SchemaError, match=f"'audio'.*{words}"):
        read_spec(copied)


@pytest.mark.parametrize(
    "modality",
    [
        ModalitySpec("visual", "frames", (4, 3, 8, 8), "uint8", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        ModalitySpec("visual", "image", (3, 8, 8), "uint8", (1.0, 2.0, 3.0), 4.0),
        ModalitySpec("text", "tokens", (40,), "int32"),
        ModalitySpec("lab", "vector", (3,), "float16", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    ],
)
def test_values_by_channel_read_back(copied: Path, modality: ModalitySpec) -> None:
    assert ModalitySpec.from_json(modality.to_json()) == modality
    _spoil(copied, **json.loads(modality.to_json()))
    assert read_spec(copied).modalities[0] == modality


def test_channels_are_the_channel_axis() -> None:
    assert ModalitySpec("m", "frames", (4, 3, 8, 9), "uint8").channels == 3
    assert ModalitySpec("m", "series", (6, 50), "float32").channels == 6
    assert ModalitySpec("m", "frames", (4, 3, 8, 9), "uint8").axes_behind == 2
    assert ModalitySpec("m", "vector", (4,), "float32").axes_behind == 0
    with pytest.raises(SchemaError, match="'m': tokens have neither channels nor features"):
        _ = ModalitySpec("m", "tokens", (4,), "int32").axes_behind
    with pytest.raises(SchemaError, match="'m': tokens have no channels"):
        _ = ModalitySpec("m", "tokens", (4,), "int32").channels
