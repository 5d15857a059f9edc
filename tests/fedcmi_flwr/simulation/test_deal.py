"""fedcmi_flwr.simulation.deal: a deal is made once, and found again.

Partitions are tested with the prepared data.
"""

from pathlib import Path

import numpy as np
import pytest

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.simulation import deal as dealing
from fedcmi_flwr.simulation.deal import Key, Positions, deal

LABELS = np.arange(24, dtype=np.int64) % 3
GROUPS = tuple(f"g{row % 5}" for row in range(24))
KEY: Key = ("dirichlet", 1.0, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache directory that is not there yet; deals of this process are forgotten."""
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path / "cache"))
    deal.cache_clear()
    return tmp_path / "cache"


def dealt(key: Key = KEY, nodes: int = 4, seed: int = 0, labels: np.ndarray = LABELS) -> Positions:
    """Deal as another process would."""
    deal.cache_clear()
    return deal(labels.tobytes(), GROUPS, key, nodes, seed)


def same(one: Positions, other: Positions) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "natural"])
def test_another_process_finds_the_deal(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dealt((kind, 1.0, 2))
    monkeypatch.setattr(dealing, "_dealt", lambda *_: pytest.fail("dealt again"))
    found = dealt((kind, 1.0, 2))
    assert same(first, found)
    assert sorted(np.concatenate(found).tolist()) == list(range(24))


@pytest.mark.parametrize(
    "changed",
    [
        {"key": ("iid", 1.0, 2)},
        {"key": ("dirichlet", 0.9, 2)},
        {"nodes": 3},
        {"seed": 1},
        {"labels": LABELS[::-1]},
    ],
    ids=["partitioner", "alpha", "nodes", "seed", "labels"],
)
def test_what_is_asked_otherwise_is_dealt_otherwise(changed: dict[str, object]) -> None:
    assert not same(dealt(), dealt(**changed))  # type: ignore[arg-type]


def test_a_file_that_is_cut_off_is_made_again(cache: Path) -> None:
    first = dealt()
    (kept,) = (cache / "deals").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:40])
    assert same(first, dealt())
    assert len(kept.read_bytes()) == len(whole)


def test_it_needs_no_cache(cache: Path) -> None:
    first = dealt()
    cache.rename(cache.with_name("elsewhere"))
    cache.write_text("no directory")
    assert same(first, dealt())


def test_a_refusal_leaves_nothing(cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="some: too small to train on"):
            dealt(("iid", 1.0, 7))
    assert not list(cache.glob("deals/*"))
