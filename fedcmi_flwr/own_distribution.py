"""A simulated node's own test samples: drawn from the common test split by the class shares of its training samples."""

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.seeding import numpy_generator


def draw_by_own_distribution(
    labels: NDArray[np.int64], like: NDArray[np.int64], seed: int, partition_id: int
) -> NDArray[np.int64]:
    """Draw as many samples, none twice, as have the class shares of others.

    The class that is scarcest for its share gives all its samples, and the others are rounded to whole samples. Classes
    that have no sample to draw from are left out.

    Parameters
    ----------
    labels
        [samples] to draw from.
    like
        [others], whose class shares are wanted; one class of theirs at least is among ``labels``.
    seed
        The run's seed.
    partition_id
        The node's number; nodes draw independently, so two of them may have the same sample.

    Returns
    -------
    Positions among ``labels``, ascending; one or more.

    Examples
    --------
    >>> labels, like = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    >>> drawn = draw_by_own_distribution(labels, like, seed=0, partition_id=0)
    >>> [int((drawn < 4).sum()), drawn[drawn >= 4].tolist()]
    [1, [4, 5]]
    """
    generator = numpy_generator(seed, "node-test", partition=partition_id)
    classes, wanted = np.unique(like, return_counts=True)
    found = [np.flatnonzero(labels == label) for label in classes]
    scale = min(len(places) / count for places, count in zip(found, wanted, strict=True) if len(places))
    sizes = [round(scale * count) if len(places) else 0 for places, count in zip(found, wanted, strict=True)]
    drawn = [generator.choice(places, size, replace=False) for places, size in zip(found, sizes, strict=True)]
    return np.sort(np.concatenate(drawn))
