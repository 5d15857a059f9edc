"""The ``data`` key: directories, and data sets by name from outside."""

import sys
from pathlib import Path

import kinds
import pytest

from data_prep.builtin import is_preparation, locate
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.schema import read_spec


def toy(out: Path) -> None:
    """Make a prepared directory, as a package of somebody else would."""
    if not out.exists():
        kinds.prepare(out, kinds.SERIES)


def idle(out: Path) -> None:
    """Make nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache directory of the test's own; this module is there as ``mine``."""
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    return tmp_path


def test_a_preparation_from_outside_is_called_on_first_use(cache: Path) -> None:
    assert locate("mine:toy") == locate("mine:toy") == cache / "mine-toy"
    assert read_spec(cache / "mine-toy").modality_names == ("motion",)
    assert locate(str(cache / "mine-toy")) == cache / "mine-toy"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("mine:idle", "data = 'mine:idle': it made no directory"),
        ("mine:Path", "is the class Path; a preparation is a function"),
        ("mine:toys", "mine has no 'toys'. Did you mean 'toy'"),
        ("/data/av-digit", "no such directory.* Did you mean 'av-digits'"),
    ],
)
def test_what_is_no_data_says_so(cache: Path, data: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        locate(data)


def test_a_path_is_no_name() -> None:
    assert [is_preparation(data) for data in ("av-digits", "mine:toy", "av-digit", "data/x", "/data/av-digits")] == [
        True, True, False, False, False,
    ]  # fmt: skip
