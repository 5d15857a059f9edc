"""fedcmi_flwr.simulation.parts: whole groups where there are groups, classes as even as
they allow.
"""

import numpy as np
import pytest

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.simulation.parts import cut_part

NOBODY = np.array([f"s{row}" for row in range(16)])
"""Groups of samples that have none: each its own."""


def cut(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int = 0, purpose: str = "validation"
) -> tuple[list[int], list[int]]:
    """Return both parts, which must be all samples, once each."""
    training, part = cut_part(labels, groups, share, seed, purpose)
    assert sorted([*training, *part]) == list(range(len(labels)))
    return training.tolist(), part.tolist()


@pytest.mark.parametrize(
    "groups", [NOBODY, np.array(["one"] * 16)], ids=["of one sample", "a single one"]
)
def test_without_groups_the_cut_goes_class_by_class(groups: np.ndarray) -> None:
    """Class sizes 1, 2, 3 and 10 at one half: 0, 1, 2 (half to even) and 5 are cut off."""
    labels = np.repeat([0, 1, 2, 3], [1, 2, 3, 10])
    _, part = cut(labels, groups, 0.5)
    assert np.bincount(labels[part], minlength=4).tolist() == [0, 1, 2, 5]
    assert cut(labels, groups, 0.5)[1] == part
    assert cut(labels, groups, 0.5, seed=1)[1] != part
    assert cut(labels, groups, 0.5, purpose="calibration")[1] != part
    assert cut(labels, groups, 0.0)[1] == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "held"), [(0.05, 1), (0.1, 1), (0.2, 2), (0.5, 5)])
def test_whole_groups_are_cut_off(share: float, held: int, seed: int) -> None:
    """Ten persons with five samples of each of four classes: a tenth of every class each.

    One at least is held.
    """
    rows = np.arange(200)
    labels, persons = rows % 4, np.array([f"p{row // 20}" for row in rows])
    training, part = cut(labels, persons, share, seed)
    assert set(persons[training]).isdisjoint(persons[part])
    assert len(set(persons[part])) == held
    assert np.bincount(labels[part]).tolist() == [5 * held] * 4


def test_who_is_held_follows_seed_and_purpose() -> None:
    rows = np.arange(200)
    labels, persons = rows % 4, np.array([f"p{row // 20}" for row in rows])
    found = {tuple(cut(labels, persons, 0.1, seed)[1]) for seed in range(8)}
    assert len(found) > 3
    others = [cut(labels, persons, 0.1, seed, "calibration")[1] for seed in range(8)]
    assert [list(cut(labels, persons, 0.1, seed)[1]) for seed in range(8)] != others


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_as_even_as_groups_allow(seed: int) -> None:
    """Blocks of one class each, eight a class.

    A quarter of every class, so two blocks of each, is held.
    """
    blocks = np.repeat(np.arange(32), 6)
    labels = blocks % 4
    _, part = cut(labels, np.array([f"b{block}" for block in blocks]), 0.25, seed)
    assert np.bincount(labels[part]).tolist() == [12] * 4


@pytest.mark.parametrize("seed", range(5))
def test_every_class_keeps_a_sample_to_train_on(seed: int) -> None:
    """Only "a" has the class 2, so "a" is never held, although it is the smallest."""
    labels = np.array([2, 0, 1] + [0, 1] * 6)
    groups = np.array(["a"] * 3 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4)
    training, part = cut(labels, groups, 0.1, seed)
    assert "a" not in groups[part]
    assert set(labels[training]) == {0, 1, 2}
    assert len(set(groups[part])) == 1


def test_a_sample_without_group_is_one_of_its_own() -> None:
    """Two persons with 10 samples each and 10 samples of nobody.

    A tenth is taken of the latter alone.
    """
    labels = np.arange(30) % 2
    groups = np.array(["a"] * 10 + ["b"] * 10 + [f"row {row}" for row in range(10)])
    _, part = cut(labels, groups, 0.1)
    assert min(part) >= 20
    assert 2 <= len(part) <= 4


def test_groups_of_which_none_can_be_spared() -> None:
    """Each group is a class: nothing to validate on is an error, not an empty part."""
    labels = np.repeat([0, 1], 4)
    with pytest.raises(
        DataError, match=r"calibration-share = 0\.2: every group has all samples of some class"
    ):
        cut_part(labels, np.array(["a"] * 4 + ["b"] * 4), 0.2, 0, "calibration")
