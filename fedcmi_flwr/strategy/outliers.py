"""How far each reply goes, beside the others of its round.

One damaged number must not ruin the model for good.

A flipped bit can turn a weight into 3e38, which is finite and so passes every check of the reply
alone. What is a hundred times as much as the median's, and more than the weights themselves, is
no training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.group_optimizers import BUFFERS
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.types import AnyArray

FEWEST = 3
"""Replies whose median says what is usual; of fewer, what was sent is a second witness."""
SMALL = 1e-2
"""Share of what was sent that a change always may be, before the ratio: at a ratio of 100, as long
as the weights themselves. Late in a run most nodes change hardly anything, and one whose samples
are new to the model hundreds of times as much."""
LOOSE = 3
"""Power of the ratio for what has no scale of its own: running statistics, and what methods
send. Honest nodes whose activations grow differ in it a thousandfold."""
METHOD = "method-arrays"


@dataclass(frozen=True)
class Extent:
    """How far the arrays of one group go."""

    norm: float = 0.0
    """Euclidean norm over the weights; Inf where it overflows."""
    largest: float = 0.0
    """Largest absolute number among the weights."""
    statistics: float = 0.0
    """Euclidean norm over running statistics."""


@dataclass(frozen=True)
class Measure:
    """One thing that is compared between the replies of a round."""

    what: str
    """In words, "the norm of the update of 'audio'"."""
    loose: bool
    """Whether it has no scale of its own."""
    sent: float = 0.0
    """The same of what was sent."""
    found: dict[int, float] = field(default_factory=dict)
    """Partition id -> number."""

    def limit(self, ratio: float) -> float:
        """Return the largest number that is allowed.

        Parameters
        ----------
        ratio
            What may be reached, as a multiple of what is usual.

        Returns
        -------
        Above 0.

        Examples
        --------
        >>> Measure("norm", False, 5.0, {0: 1.0, 1: 2.0, 2: 4.0, 3: 3e38}).limit(100)
        200.0
        >>> Measure("norm", False, 5.0, {0: 3e38}).limit(100)
        500.0
        """
        usual = median_low(self.found.values())
        if len(self.found) == 1:
            usual = self.sent
        elif len(self.found) < FEWEST:
            usual = max(usual, self.sent)

        usual = max(usual, SMALL * self.sent) or 1.0

        return usual * ratio ** (LOOSE if self.loose else 1)


def extents(update: wire.NodeUpdate, plan: RoundPlan) -> dict[str, Extent]:
    """Measure a reply while its arrays are in memory.

    Parameters
    ----------
    update
        With the names, shapes and dtypes of what was sent.
    plan
        The round's.

    Returns
    -------
    Group that it holds -> extent of its change; under ``METHOD`` that of what the method sends,
    where it does.
    """
    held = {group: names for group, names in plan.names.items() if set(names) <= set(update.arrays)}
    found = {group: extent_of(names, update.arrays, plan.arrays) for group, names in held.items()}
    if update.from_method:
        found[METHOD] = extent_of(list(update.from_method), update.from_method, {})

    return found


def extent_of(
    names: Sequence[str], arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray]
) -> Extent:
    """Return how far floating-point arrays are from what was sent.

    From 0 what is not in ``sent``.
    """
    weight, statistic, largest = 0.0, 0.0, 0.0
    for name in names:
        if not np.issubdtype(arrays[name].dtype, np.floating) or arrays[name].size == 0:
            continue

        change = _change(arrays[name], sent.get(name))
        if name.endswith(BUFFERS):
            statistic = math.hypot(statistic, _norm(change))
            continue

        weight = math.hypot(weight, _norm(change))
        largest = max(largest, float(np.abs(change).max()))

    return Extent(weight, largest, statistic)


def too_far(
    found: Mapping[int, Mapping[str, Extent]], plan: RoundPlan, ratio: float
) -> dict[int, str]:
    """Return the replies that go too far, and in what.

    Parameters
    ----------
    found
        Partition id -> what :func:`extents` measured.
    plan
        The round's.
    ratio
        ``max_norm_ratio``.

    Returns
    -------
    Partition id -> reason.
    """
    reasons: dict[int, str] = {}
    for measure in _measures(found, plan):
        limit = measure.limit(ratio)
        for partition, value in measure.found.items():
            if value > limit:
                because = (
                    f"{measure.what} is {value:.4g}, above {limit:.4g}: too far from the round's "
                    "other replies"
                )
                reasons.setdefault(partition, f"{because} (max-norm-ratio = {ratio:g}).")

    return reasons


def _measures(found: Mapping[int, Mapping[str, Extent]], plan: RoundPlan) -> list[Measure]:
    measures = []
    for group in (*plan.names, METHOD):
        owners = {partition: own[group] for partition, own in found.items() if group in own}
        if not owners:
            continue

        if group == METHOD:
            sent, of = Extent(), METHOD
        else:
            sent, of = extent_of(plan.names[group], plan.arrays, {}), f"the update of {group!r}"

        loose = group == METHOD
        measures += [
            Measure(
                f"the norm of {of}", loose, sent.norm, {p: own.norm for p, own in owners.items()}
            ),
            Measure(
                f"the largest number of {of}",
                loose,
                sent.largest,
                {p: own.largest for p, own in owners.items()},
            ),
            Measure(
                f"the norm of the running statistics of {of}",
                True,
                sent.statistics,
                {p: own.statistics for p, own in owners.items()},
            ),
        ]

    return measures


def _norm(change: AnyArray) -> float:
    """Return the Euclidean norm; in double precision only where single precision overflows."""
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(change))
        return norm if math.isfinite(norm) else float(np.linalg.norm(change.astype(np.float64)))


def _change(array: AnyArray, sent: AnyArray | None) -> AnyArray:
    """Return array - sent in single precision or better, flat."""
    wide = np.result_type(array.dtype, np.float32)
    values = np.asarray(array, wide).ravel()
    if sent is None:
        return values

    with np.errstate(over="ignore"):
        change: AnyArray = values - np.asarray(sent, wide).ravel()

    return change
