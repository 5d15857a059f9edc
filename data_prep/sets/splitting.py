"""Seeded draws of samples: which ones, and what is paired with what."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError


def balanced_order(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Order samples at random so that every leading part has equally many of each class, to within
    one.

    Once a class is used up, the others go on. Cut the order to get splits: the parts are
    disjoint, and a longer first part begins with the shorter one.

    Parameters
    ----------
    labels
        [samples], class indices.
    generator
        Source of randomness.

    Returns
    -------
    [samples], a permutation of the row numbers.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> labels[balanced_order(labels, np.random.default_rng(0))[:4]].sum()
    np.int64(2)
    """
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        rank[rows] = np.arange(len(rows))

    return order[np.argsort(rank[order], kind="stable")]


def pair_by_label(
    labels: NDArray[np.int64], pool_labels: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Give every sample a partner of its own class from a pool; no partner is used twice.

    Samples are served in their order, so the partners of leading samples do not depend on how
    many follow.

    Parameters
    ----------
    labels
        [samples], class indices.
    pool_labels
        [pool], class indices of the possible partners.
    generator
        Source of randomness.

    Returns
    -------
    [samples], row numbers in the pool, all different.

    Raises
    ------
    PrepError
        The pool has fewer partners of a class than there are samples.
    """
    order = generator.permutation(len(pool_labels))
    partners = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        pool = order[pool_labels[order] == label]
        if len(pool) < len(rows):
            raise PrepError(
                f"class {label}: {len(rows)} samples need a partner each, found {len(pool)} to "
                "pair with; use fewer samples, or the whole pool."
            )

        partners[rows] = pool[: len(rows)]

    return partners


def stratified_part(
    labels: NDArray[np.int64], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a share of the samples of each class.

    Parameters
    ----------
    labels
        [samples], class indices.
    share
        Of each class, in (0, 1); rounded to whole samples, at least 1 of a class that has 2 or
        more.
    generator
        Source of randomness.

    Returns
    -------
    [samples], True for what is drawn.

    Examples
    --------
    >>> labels = np.array([0] * 20 + [1] * 10 + [2])
    >>> drawn = stratified_part(labels, 0.1, np.random.default_rng(0))
    >>> np.bincount(labels[drawn], minlength=3).tolist()
    [2, 1, 0]
    """
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        drawn[rows[: max(round(share * len(rows)), min(len(rows) - 1, 1))]] = True

    return drawn


def group_part(groups: Sequence[str], share: float, generator: np.random.Generator) -> set[str]:
    """Draw a share of the groups, whatever their sizes and the order of the samples.

    Parameters
    ----------
    groups
        Of each sample; two different ones or more.
    share
        Of the groups, in (0, 1); rounded to whole ones, at least 1.
    generator
        Source of randomness.

    Returns
    -------
    The groups that are drawn.

    Raises
    ------
    PrepError
        There is only one group, or none.

    Examples
    --------
    >>> len(group_part([str(number) for number in range(91)], 0.1, np.random.default_rng(0)))
    9
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise PrepError(
            f"only {len(names)} groups {names}: at least 2 are needed to keep the splits' groups "
            "apart."
        )

    return {str(name) for name in generator.permutation(names)[: max(round(share * len(names)), 1)]}
