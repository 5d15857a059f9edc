"""data_prep.sets.splitting: draws are disjoint, balanced and repeatable."""

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.sets.splitting import balanced_order, pair_by_label

LABELS = np.array([0] * 20 + [1] * 5 + [2] * 12)


def test_order_is_a_permutation() -> None:
    order = balanced_order(LABELS, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(37))


@pytest.mark.parametrize(
    ("size", "counts"), [(3, [1, 1, 1]), (15, [5, 5, 5]), (29, [12, 5, 12]), (37, [20, 5, 12])]
)
def test_leading_part_is_balanced_until_a_class_is_used_up(size: int, counts: list[int]) -> None:
    order = balanced_order(LABELS, np.random.default_rng(0))
    assert np.bincount(LABELS[order[:size]]).tolist() == counts


def test_order_follows_its_generator() -> None:
    first, again, other = (
        balanced_order(LABELS, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_partners_are_of_the_same_class_and_used_once() -> None:
    pool = np.arange(100) % 3
    partners = pair_by_label(LABELS, pool, np.random.default_rng(0))
    assert np.array_equal(pool[partners], LABELS)
    assert len(set(partners.tolist())) == 37


def test_leading_partners_do_not_depend_on_what_follows() -> None:
    pool = np.arange(100) % 3
    labels = np.array([2, 0, 1, 0, 2, 2, 1])
    whole = pair_by_label(labels, pool, np.random.default_rng(0))
    part = pair_by_label(labels[:4], pool, np.random.default_rng(0))
    assert np.array_equal(whole[:4], part)


def test_too_small_a_pool_is_refused() -> None:
    with pytest.raises(PrepError, match="class 1: 2 samples need a partner each, found 1"):
        pair_by_label(np.array([0, 1, 1]), np.array([0, 1, 0]), np.random.default_rng(0))
