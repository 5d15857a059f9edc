"""Robust means of parameter groups, by Flower's own arithmetic: a few hostile nodes of many do not decide them.

All of them leave num-examples out: a weight that a node names itself is a way to be louder than the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum

from fedcmi_flwr.aggregation.mean import weighted_mean
from fedcmi_flwr.config.names import AGGREGATIONS
from fedcmi_flwr.types import AnyArray

BLOCK = 2**16
"""Numbers of an array that are made double at a time."""


@dataclass(frozen=True)
class RobustAggregation:
    """What becomes of a parameter group, given the updates of the nodes that own it; every node counts the same.

    Integer and boolean arrays (counters) take the maximum, as in the weighted mean. Sources: Yin et al., ICML 2018
    (median, trimmed mean); Blanchard et al., NeurIPS 2017 (Krum).

    Raises
    ------
    ValueError
        An unknown name, or a number out of range.
    """

    name: str
    """"median": of each number; "trimmed-mean": of each number, without its largest and smallest ones; "krum": the
    whole group of the one node that is nearest to its neighbours."""
    trim_share: float = 0.2
    """Of the owners, what "trimmed-mean" cuts off at each end (rounded down), above 0 and below 0.5."""
    malicious_nodes: int = 1
    """f, how many hostile owners "krum" reckons with, 0 or more."""

    def __post_init__(self) -> None:
        """Check name and ranges."""
        if self.name not in AGGREGATIONS[1:]:
            raise ValueError(f"aggregation = {self.name!r}: not one of {list(AGGREGATIONS[1:])}.")
        if not 0 < self.trim_share < 0.5:
            raise ValueError(f"trim-share = {self.trim_share!r}: must be above 0 and below 0.5.")
        if self.malicious_nodes < 0:
            raise ValueError(f"malicious-nodes = {self.malicious_nodes!r}: must be 0 or more.")

    @property
    def owners_needed(self) -> int:
        """Fewest updates of a group that the rule protects against one hostile one; Krum: against f, 2 f + 3.

        Examples
        --------
        >>> [RobustAggregation("median").owners_needed, RobustAggregation("krum", malicious_nodes=2).owners_needed]
        [3, 7]
        >>> RobustAggregation("trimmed-mean", trim_share=0.2).owners_needed  # 0.2 * 5 = 1 is cut off at each end
        5
        """
        if self.name == "median":
            return 3
        if self.name == "krum":
            return 2 * self.malicious_nodes + 3
        fewest = math.ceil(1 / self.trim_share)
        return fewest if int(self.trim_share * fewest) >= 1 else fewest + 1

    def aggregate(
        self,
        current: Mapping[str, AnyArray],
        updates: Sequence[Mapping[str, AnyArray]],
        groups: Mapping[str, Sequence[str]],
    ) -> dict[str, AnyArray]:
        """Aggregate each group over the nodes that sent it; the order of the updates does not matter but to ties.

        Parameters
        ----------
        current
            The global model: name -> array.
        updates
            Name -> array of each node.
        groups
            Group -> names, of the groups to aggregate, each with at least one owner; all others keep their values.

        Returns
        -------
        The new global model, with the names, order and dtypes of ``current``.
        """
        found = dict(current)
        for names in groups.values():
            owners = [update for update in updates if names[0] in update]
            counters = [name for name in names if not np.issubdtype(current[name].dtype, np.floating)]
            weights = [name for name in names if name not in counters]
            found |= {name: weighted_mean((update[name] for update in owners), [1] * len(owners)) for name in counters}
            if self.name == "krum" and weights:
                chosen = self._krum(current, owners, weights)
                found |= {name: chosen[name] for name in weights}
            else:
                found |= {name: self._coordinatewise(name, owners) for name in weights}
        return found

    def _coordinatewise(self, name: str, owners: Sequence[Mapping[str, AnyArray]]) -> AnyArray:
        first = owners[0][name]
        stacked, found = np.empty((len(owners), first.size), first.dtype), np.empty(first.size, first.dtype)
        for row, owner in zip(stacked, owners, strict=True):
            row[:] = owner[name].ravel()
        blocks = -(-first.size // BLOCK) or 1
        for part, rows in zip(np.array_split(found, blocks), np.array_split(stacked, blocks, axis=1), strict=True):
            numbers = rows.astype(np.float64)
            part[:] = np.median(numbers, axis=0) if self.name == "median" else trim_mean(numbers, self.trim_share)
        return found.reshape(first.shape)

    def _krum(
        self, current: Mapping[str, AnyArray], owners: Sequence[Mapping[str, AnyArray]], names: Sequence[str]
    ) -> Mapping[str, AnyArray]:
        """Return the owner that Krum selects; from changes, whose distances lose less to rounding than weights'."""
        contents = []
        for owner in owners:
            change = [np.asarray(owner[name], np.float64) - np.asarray(current[name], np.float64) for name in names]
            flat = np.concatenate(change, axis=None)
            contents.append(RecordDict({"arrays": ArrayRecord({"change": Array(flat)})}))
        (chosen,) = select_multikrum(contents, self.malicious_nodes, 1)
        return owners[next(place for place, content in enumerate(contents) if content is chosen)]
