"""A simulated node's own test samples.

Drawn from the common test split by the class shares of its training samples.
"""

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.seeding import numpy_generator

FEWEST = 10
"""Samples to evaluate on; with fewer one sample is more than 10 points of accuracy."""


def draw_by_own_distribution(
    labels: NDArray[np.int64], like: NDArray[np.int64], seed: int, partition_id: int
) -> NDArray[np.int64]:
    """Draw without repetition as many samples as match the class shares of others.

    The class that is scarcest for its share gives all its samples, and the others are rounded to
    whole samples. Classes that have no sample to draw from are left out. Fewer than FEWEST
    samples are refused.

    Parameters
    ----------
    labels
        [samples] to draw from.
    like
        [others], whose class shares are wanted; one or more.
    seed
        The run's seed.
    partition_id
        The node's number; nodes draw independently, so two of them may have the same sample.

    Returns
    -------
    Positions among ``labels``, ascending; FEWEST or more.

    Raises
    ------
    DataError
        Fewer, or none at all since there is no class in common.

    Examples
    --------
    >>> labels, like = np.repeat([0, 1, 2], [30, 8, 5]), np.array([0, 0, 1, 1, 1, 1])
    >>> drawn = draw_by_own_distribution(labels, like, seed=0, partition_id=0)
    >>> np.unique(labels[drawn], return_counts=True)
    (array([0, 1]), array([4, 8]))
    """
    generator = numpy_generator(seed, "node-test", partition=partition_id)
    classes, wanted = np.unique(like, return_counts=True)
    found = [np.flatnonzero(labels == label) for label in classes]
    scales = [
        len(places) / count for places, count in zip(found, wanted, strict=True) if len(places)
    ]
    scale = min(scales, default=0)
    sizes = [
        round(scale * count) if len(places) else 0
        for places, count in zip(found, wanted, strict=True)
    ]
    if sum(sizes) < FEWEST:
        raise DataError(
            f"node-test = 'own-distribution': partition {partition_id} can be given {sum(sizes)} "
            f"samples in the class shares of its training samples, need {FEWEST}; of its classes "
            f"{classes.tolist()} the split to draw from has {[len(places) for places in found]} "
            "samples. Set node-test = 'shared', or use a larger split."
        )

    drawn = [
        generator.choice(places, size, replace=False)
        for places, size in zip(found, sizes, strict=True)
    ]

    return np.sort(np.concatenate(drawn))
