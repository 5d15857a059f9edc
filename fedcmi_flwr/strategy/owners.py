"""Whose updates count for a parameter group, and how many it takes for the group to change."""

import logging
from collections.abc import Mapping

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.strategy.groups import groups_for
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.tolerance import Tolerance
from fedcmi_flwr.types import SHARED

logger = logging.getLogger("flwr.fedcmi")


def known_owners(plan: RoundPlan) -> dict[str, int]:
    """Return, for each array, how many nodes own its group, sampled or not."""
    owned = [groups_for(info.modalities, plan.names) for info in plan.known.values()]
    counts = {group: sum(group in groups for groups in owned) for group in plan.names}
    return {name: counts[group] for group, members in plan.names.items() for name in members}


def owners_by_group(
    plan: RoundPlan,
    updates: Mapping[int, wire.NodeUpdate],
    tolerance: Tolerance,
    aggregation: RobustAggregation,
) -> dict[str, list[int]]:
    """Return whose updates count for each group: nobody's for one that too few nodes trained.

    A node that had no sample with a modality did not train it.

    Parameters
    ----------
    plan
        It says who was sent what.
    updates
        Partition id -> update that can be used.
    tolerance
        As for :func:`owners_needed`.
    aggregation
        As for :func:`owners_needed`.

    Returns
    -------
    Group -> partition ids, in order.
    """
    found = {}
    sent = plan.groups_by_partition
    for group in plan.names:
        owners = [
            p for p in sorted(updates) if group in sent[p] and updates[p].examples_of(group) > 0
        ]
        needed, because = owners_needed(group, tolerance, aggregation)
        if len(owners) < needed:
            few = f"{len(owners)} of {needed} nodes ({because})" if owners else "nobody"
            logger.warning(
                "round %d: %s trained %r; it keeps its value", plan.server_round, few, group
            )
            owners = []

        found[group] = owners

    return found


def owners_needed(
    group: str, tolerance: Tolerance, aggregation: RobustAggregation
) -> tuple[int, str]:
    """Return how many nodes must have trained a group for it to change, and the key that says so.

    Parameters
    ----------
    group
        A modality, or the shared group.
    tolerance
        What a modality needs.
    aggregation
        What becomes of the updates.

    Returns
    -------
    Number and key.
    """
    needed = 1 if group == SHARED else tolerance.min_owners_per_modality
    if aggregation.owners_needed > needed:
        return aggregation.owners_needed, f"aggregation = {aggregation.name!r}"

    return needed, "min-owners-per-modality"
