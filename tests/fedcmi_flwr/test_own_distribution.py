"""Test samples by a node's own class shares."""

import numpy as np
import pytest

from fedcmi_flwr.own_distribution import draw_by_own_distribution


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ([6, 3, 0], {0: 6, 1: 3}),  # class 0 gives all it has, class 1 half as many
        ([1, 1, 1], {0: 6, 1: 6, 2: 6}),
        ([100, 1, 0], {0: 6}),  # 0.06 of a sample of class 1
        ([0, 0, 2], {2: 9}),
        ([3, 0, 3], {0: 6, 2: 6}),
        ([2, 1, 0, 5], {0: 6, 1: 3}),  # nobody has a sample of the last class to draw from
    ],
)
def test_the_scarcest_class_gives_all_and_the_shares_are_kept(like: list[int], expected: dict[int, int]) -> None:
    """Of classes 0, 1 and 2 there are 6, 8 and 9 samples."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [6, 8, 9]))
    drawn = draw_by_own_distribution(labels, np.repeat(np.arange(len(like)), like), seed=1, partition_id=2)
    assert dict(zip(*np.unique(labels[drawn], return_counts=True), strict=True)) == expected
    assert (np.diff(drawn) > 0).all()  # in order, and none twice


def test_seed_and_node_decide_which() -> None:
    labels, like = np.repeat([0, 1], 50), np.repeat([0, 1], [1, 4])

    def found(seed: int, partition: int) -> list[int]:
        return draw_by_own_distribution(labels, like, seed, partition).tolist()

    assert found(0, 0) == found(0, 0)
    assert found(0, 0) != found(0, 1)
    assert found(0, 0) != found(1, 0)
