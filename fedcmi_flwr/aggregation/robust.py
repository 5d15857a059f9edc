"""From the updates of a parameter group to one.

Their mean, or what a few hostile nodes of many do not decide.

The robust rules leave num-examples out: a weight that a node names itself is a way to be louder
than the others. Their arithmetic is, to the bit, that of Flower's trimmed mean and Krum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.aggregation.mean import aggregate_groups, weighted_mean
from fedcmi_flwr.config.fields import Settings, choice, number
from fedcmi_flwr.types import AnyArray

Arrays = Mapping[str, AnyArray]
BLOCK = 2**16
"""Numbers of an array that are made double at a time."""


@dataclass(frozen=True)
class RobustAggregation(Settings):
    """How the updates of a parameter group's owners become one.

    Integer and boolean arrays (counters) take the maximum. Sources: Yin et al., ICML 2018
    (median, trimmed mean); Blanchard et al., NeurIPS 2017 (Krum).
    """

    name: str = choice("mean", "median", "trimmed-mean", "krum", key="aggregation", default="mean")
    """"mean": weighted by samples, and robust to nothing. The others count every node the same:
    "median", of each number; "trimmed-mean", of each number, without its largest and smallest
    ones; "krum", the whole group of the one node that is nearest to its neighbours."""
    trim_share: float = number(0, 0.5, above=True, below=True, default=0.2)
    """Of the owners of a group, what "trimmed-mean" cuts off at each end, rounded down."""
    malicious_nodes: int = number(0, default=1)
    """f, how many hostile owners of a group "krum" reckons with."""

    @property
    def owners_needed(self) -> int:
        """Fewest updates of a group with which the rule withstands one hostile node.

        Krum: against f, 2 f + 3.

        Examples
        --------
        >>> [RobustAggregation("median").owners_needed, RobustAggregation("krum", malicious_nodes=2).owners_needed]
        [3, 7]
        >>> RobustAggregation("trimmed-mean", trim_share=0.2).owners_needed  # 0.2 * 5 = 1 is cut off at each end
        5
        """
        if self.name == "mean":
            return 1
        if self.name == "median":
            return 3
        if self.name == "krum":
            return 2 * self.malicious_nodes + 3

        fewest = math.ceil(1 / self.trim_share)

        return fewest if int(self.trim_share * fewest) >= 1 else fewest + 1

    def aggregate(
        self,
        current: Arrays,
        updates: Sequence[tuple[Arrays, Mapping[str, float]]],
        groups: Mapping[str, Sequence[str]],
    ) -> dict[str, AnyArray]:
        """Aggregate each group over the nodes that sent it.

        The order of the updates matters to the last bits and ties.

        Parameters
        ----------
        current
            The global model: name -> array.
        updates
            (name -> array, name -> weight) of each node.
        groups
            Group -> names, of the groups to aggregate, each with at least one owner; all others
            keep their values.

        Returns
        -------
        The new global model, with the names, order and dtypes of ``current``.
        """
        if self.name == "mean":
            return aggregate_groups(current, updates)

        found = dict(current)
        for names in groups.values():
            owners = [arrays for arrays, _ in updates if names[0] in arrays]
            found |= self._aggregate_group(current, owners, names)

        return found

    def _aggregate_group(
        self, current: Arrays, owners: Sequence[Arrays], names: Sequence[str]
    ) -> dict[str, AnyArray]:
        counters = [name for name in names if not np.issubdtype(current[name].dtype, np.floating)]
        weights = [name for name in names if name not in counters]
        found = {
            name: weighted_mean((owner[name] for owner in owners), [1] * len(owners))
            for name in counters
        }

        if self.name == "krum" and weights:
            chosen = owners[krum_index(_changes(current, owners, weights), self.malicious_nodes)]
            return found | {name: chosen[name] for name in weights}

        return found | {name: self._coordinatewise(name, owners) for name in weights}

    def _coordinatewise(self, name: str, owners: Sequence[Arrays]) -> AnyArray:
        first = owners[0][name]
        stacked, found = (
            np.empty((len(owners), first.size), first.dtype),
            np.empty(first.size, first.dtype),
        )
        for row, owner in zip(stacked, owners, strict=True):
            row[:] = owner[name].ravel()

        blocks = -(-first.size // BLOCK) or 1
        for part, rows in zip(
            np.array_split(found, blocks), np.array_split(stacked, blocks, axis=1), strict=True
        ):
            numbers = rows.astype(np.float64)
            part[:] = (
                np.median(numbers, axis=0)
                if self.name == "median"
                else trimmed_mean(numbers, self.trim_share)
            )

        return found.reshape(first.shape)


def trimmed_mean(rows: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the mean over the first axis without the largest and the smallest numbers of each
    column.

    Parameters
    ----------
    rows
        [nodes, numbers].
    share
        Of the nodes, what is cut off at each end (rounded down), in [0, 0.5).

    Returns
    -------
    [numbers].

    Examples
    --------
    >>> trimmed_mean(np.array([[1.0], [2.0], [4.0], [8.0], [1000.0]]), 0.2)
    array([4.66666667])
    """
    cut = int(share * len(rows))
    kept = len(rows) - cut
    ordered = np.partition(rows, (cut, kept - 1), axis=0)
    mean: NDArray[np.float64] = np.mean(ordered[cut:kept], axis=0)

    return mean


def krum_index(vectors: NDArray[np.float64], malicious: int) -> int:
    """Return the vector with the smallest sum of squared distances to its nearest others.

    Parameters
    ----------
    vectors
        [nodes, numbers].
    malicious
        f: of n vectors, the n - f - 2 nearest others count, at least one.

    Returns
    -------
    Its index, the smallest one of several.

    Examples
    --------
    >>> krum_index(np.array([[1.0], [2.0], [4.0], [8.0], [1000.0]]), malicious=0)
    2
    """
    norms = np.square(vectors).sum(axis=1)
    distances = norms[:, None] + norms[None, :] - 2 * vectors @ vectors.T

    nearest = max(1, len(vectors) - malicious - 2)
    others = [np.argsort(row)[1 : nearest + 1] for row in distances]
    scores = [np.sum(row[chosen]) for row, chosen in zip(distances, others, strict=True)]

    return int(np.argsort(scores)[0])


def _changes(
    current: Arrays, owners: Sequence[Arrays], names: Sequence[str]
) -> NDArray[np.float64]:
    """Return [owners, numbers]: changes, whose distances lose less to rounding than weights'."""
    rows = []
    for owner in owners:
        change = [
            np.asarray(owner[name], np.float64) - np.asarray(current[name], np.float64)
            for name in names
        ]
        rows.append(np.concatenate(change, axis=None))

    return np.stack(rows)
