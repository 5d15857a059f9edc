"""data_prep.pipeline.tables: what is said of each sample reads back, commas and missing modalities
included.
"""

import csv
from pathlib import Path

import numpy as np

from data_prep.pipeline.plan import Exclusion, Planned
from data_prep.pipeline.tables import write_excluded, write_samples
from fedcmi_flwr.data.schema import labels_path, samples_path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_samples_read_back(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    both = Planned(
        "a", 1, "h,i", "train", {"touch": 1, "sound": 2}, {"touch": "t#1", "sound": "1.wav"}
    )
    deaf = Planned("b", 0, "g", "train", {"touch": 3}, {"touch": "t#2", "sound": "not there.wav"})
    write_samples(tmp_path, "train", [both, deaf], ["sound", "touch"])
    labels = np.load(labels_path(tmp_path, "train"), allow_pickle=False)
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0]
    assert _rows(samples_path(tmp_path, "train")) == [
        {
            "id": "a",
            "label": "1",
            "group": "h,i",
            "modalities": "sound+touch",
            "source": "1.wav;t#1",
        },
        {"id": "b", "label": "0", "group": "g", "modalities": "touch", "source": "t#2"},
    ]


def test_what_was_left_out_is_listed(tmp_path: Path) -> None:
    bad = [
        Exclusion(f"{row}", "train", f"raw/{row}.wav", f"reason {row}, really") for row in range(25)
    ]
    write_excluded(tmp_path, bad)
    rows = _rows(tmp_path / "excluded.csv")
    assert len(rows) == 25
    assert rows[7] == {
        "id": "7",
        "split": "train",
        "source": "raw/7.wav",
        "reason": "reason 7, really",
        "label": "",
    }


def test_no_list_without_exclusions(tmp_path: Path) -> None:
    write_excluded(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
