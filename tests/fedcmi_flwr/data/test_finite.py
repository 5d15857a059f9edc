"""A stored sample that is no number is named.

By the node that trains on it, and by the server that evaluates on it.
"""

from pathlib import Path

import kinds
import numpy as np
import pytest

from client_app.app import app as client_app
from fedcmi_flwr.data.finite import check_finite
from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.schema import array_path
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics


def spoil(directory: Path, split: str, modality: str, row: int, value: float) -> None:
    """Put one value that is no number into a stored array."""
    path = array_path(directory, split, modality)
    array = np.load(path)
    array.reshape(len(array), -1)[row, 3] = value
    np.save(path, array)


@pytest.mark.parametrize(
    ("modality", "value"), [("audio", np.nan), ("motion", np.inf), ("lab", -np.inf)]
)
def test_the_first_one_is_named(tmp_path: Path, modality: str, value: float) -> None:
    out = kinds.prepare(
        tmp_path / "out", kinds.SPECTROGRAM, kinds.SERIES, kinds.VECTOR, kinds.IMAGE, kinds.TOKENS
    )
    check_finite(load_split(out, "train"), "train")
    spoil(out, "train", modality, 5, value)
    match = rf"{modality} of sample 5 of the train split \(row 7 of samples\.csv, of 'g1'\) holds NaN or Inf"
    with pytest.raises(DataError, match=match):
        check_finite(load_split(out, "train"), "train")


def test_what_a_sample_lacks_is_not_looked_at(tmp_path: Path) -> None:
    out = kinds.prepare(tmp_path / "out", kinds.SPECTROGRAM, kinds.SERIES, absent={5: "motion"})
    spoil(out, "train", "motion", 5, np.nan)
    check_finite(load_split(out, "train"), "train")


def run(out: Path, run_dir: Path, **more: object) -> Path:
    keys = {
        "fraction-train": 1.0,
        "local-epochs": 1,
        "min-partition-size": 2,
        "embedding-dim": 4,
        "partition": "iid",
    }
    options = {
        "data": str(out),
        "run-dir": str(run_dir),
        "num-server-rounds": 1,
        **keys,
        "max-norm-ratio": 0.0,
        **more,
    }
    encoders = ["encoder=audio=small-cnn motion=cnn-1d", "method=fedavg"]
    raw = resolve(None, options, encoders)  # type: ignore[arg-type]
    return run_in_process(raw, 3, client_app, lambda line: None, plots=False)


def test_the_node_says_which_sample(tmp_path: Path) -> None:
    out = kinds.prepare(tmp_path / "out", kinds.SPECTROGRAM, kinds.SERIES)
    spoil(out, "train", "motion", 7, np.nan)
    (refused,) = read_metrics(run(out, tmp_path / "run"))[1]["refused"]
    assert "motion of sample 7 of the train split" in str(refused)
    assert "Lower lr" not in str(refused)


def test_the_server_says_which_sample_before_it_trains(tmp_path: Path) -> None:
    out = kinds.prepare(tmp_path / "out", kinds.SPECTROGRAM, kinds.SERIES)
    spoil(out, "test", "audio", 2, np.inf)
    with pytest.raises(DataError, match="audio of sample 2 of the test split"):
        run(out, tmp_path / "run")
