"""From the updates of a round to the average of each parameter group."""

from collections import Counter
from collections.abc import Mapping, Sequence

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.privacy import Privacy
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.strategy.lazy_arrays import LazyArrays
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.types import AnyArray


def average_updates(
    updates: Sequence[wire.NodeUpdate],
    plan: RoundPlan,
    trained: Mapping[str, Sequence[str]],
    aggregation: RobustAggregation,
    privacy: Privacy,
) -> dict[str, AnyArray]:
    """Average every group over the nodes that own it.

    Parameters
    ----------
    updates
        In the order of the partition ids, which decides the last bits.
    plan
        It says who was sent what.
    trained
        Group -> names, of the groups with enough owners; the others keep their values.
    aggregation
        How updates become one.
    privacy
        Where it is enabled: clips and adds noise; nodes have equal weights then.

    Returns
    -------
    Name -> array, of all arrays that were sent.
    """
    if privacy.enabled:
        asked = Counter(group for _, groups in plan.sent.values() for group in groups)
        return privacy.average(plan.arrays, [update.arrays for update in updates], trained, asked)

    weighted = [_weighted(update, trained) for update in updates]
    return aggregation.aggregate(plan.arrays, weighted, trained)


def _weighted(
    update: wire.NodeUpdate, groups: Mapping[str, Sequence[str]]
) -> tuple[Mapping[str, AnyArray], dict[str, float]]:
    """Return the arrays of these groups that a node trained, and n_{k,m} of each."""
    weights: dict[str, float] = {}
    for group, names in groups.items():
        examples = float(update.examples_of(group))
        if examples > 0:
            weights |= {name: examples for name in names if name in update.arrays}

    return LazyArrays(weights, update.arrays.__getitem__), weights
