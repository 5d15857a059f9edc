"""Test samples by a node's own class shares."""

import re

import numpy as np
import pytest

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.simulation.own_distribution import draw_by_own_distribution


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ([6, 3, 0], {0: 12, 1: 6}),  # class 0 gives all it has, class 1 half as many
        ([1, 1, 1], {0: 12, 1: 12, 2: 12}),
        ([100, 1, 0], {0: 12}),  # 0.12 of a sample of class 1
        ([0, 0, 2], {2: 18}),
        ([3, 0, 3], {0: 12, 2: 12}),
        ([2, 1, 0, 5], {0: 12, 1: 6}),  # nobody has a sample of the last class to draw from
    ],
)
def test_the_scarcest_class_gives_all_and_the_shares_are_kept(
    like: list[int], expected: dict[int, int]
) -> None:
    """Of classes 0, 1 and 2 there are 12, 16 and 18 samples."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [12, 16, 18]))
    drawn = draw_by_own_distribution(
        labels, np.repeat(np.arange(len(like)), like), seed=1, partition_id=2
    )
    assert dict(zip(*np.unique(labels[drawn], return_counts=True), strict=True)) == expected
    assert (np.diff(drawn) > 0).all()  # in order, and none twice


def test_seed_and_node_decide_which() -> None:
    labels, like = np.repeat([0, 1], 50), np.repeat([0, 1], [1, 4])

    def found(seed: int, partition: int) -> list[int]:
        return draw_by_own_distribution(labels, like, seed, partition).tolist()

    assert found(0, 0) == found(0, 0)
    assert found(0, 0) != found(0, 1)
    assert found(0, 0) != found(1, 0)


@pytest.mark.parametrize(
    ("counts", "like", "drawn", "there"),
    [
        ([50, 50, 0], [0, 0, 4], 0, [0]),  # no class in common
        ([50, 50, 1], [5, 0, 1], 6, [50, 1]),  # the only sample of class 2 leaves 5 of class 0
        ([9, 0, 0], [1, 0, 0], 9, [9]),
    ],
    ids=["nothing in common", "a scarce class", "one too few"],
)
def test_a_node_that_can_hardly_be_tested_is_told(
    counts: list[int], like: list[int], drawn: int, there: list[int]
) -> None:
    labels, own = (np.repeat([0, 1, 2], numbers) for numbers in (counts, like))
    message = rf"node-test.*partition 7 can be given {drawn} samples.*need 10.* has {re.escape(str(there))} samples"
    with pytest.raises(DataError, match=message):
        draw_by_own_distribution(labels, own, seed=0, partition_id=7)


def test_ten_samples_are_enough() -> None:
    labels, like = np.zeros(10, dtype=np.int64), np.zeros(3, dtype=np.int64)
    assert draw_by_own_distribution(labels, like, seed=0, partition_id=0).tolist() == [*range(10)]
