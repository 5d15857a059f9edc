"""data_prep.pipeline.rows: which rows count as there after an interruption."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from toy_archive import plan, prepare_toys, write_archive

from data_prep.errors import PrepError
from data_prep.pipeline.rows import RowStore


def contents(directory: Path) -> dict[str, str]:
    """Return the hash of every file."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_archive(tmp_path / "raw", 50)
    return tmp_path / "raw"


def test_a_journal_line_that_was_cut_off_does_not_count(raw: Path, tmp_path: Path) -> None:
    whole = contents(prepare_toys(raw, tmp_path / "whole"))
    (raw / "049.sound").write_text("x")
    with pytest.raises(PrepError, match=r"049\.sound"):
        prepare_toys(raw, tmp_path / "out")
    (raw / "049.sound").write_text("49")
    with (tmp_path / ".out.rows" / "journal").open("ab") as journal:
        journal.write(b"4")  # of a "48"; taken whole, row 4 would count twice and 48 stay empty
    assert contents(prepare_toys(raw, tmp_path / "out")) == whole


def test_rows_of_the_same_plan_are_kept_and_others_are_not(raw: Path, tmp_path: Path) -> None:
    directory, row = tmp_path / "rows", np.array([[1.5, 2.5]], np.float32).tobytes()
    RowStore(directory, plan(raw), "toys", {}).files["train", "sound"].write(3, row)
    again = RowStore(directory, plan(raw), "toys", {}).files["train", "sound"]
    assert np.load(again.path)[3].tolist() == [[1.5, 2.5]]
    other = RowStore(directory, plan(raw), "toys", {"factor": 11}).files["train", "sound"]
    assert not np.load(other.path).any()
