"""Whose updates count for a parameter group, and how many it takes for the group to change."""

import logging
from collections.abc import Mapping

from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.strategy.groups import groups_of
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import SHARED
from fedcmi_flwr.wire import NodeUpdate

logger = logging.getLogger("flwr.fedcmi")


def known_owners(report: RoundReport) -> dict[str, int]:
    """Return, for each array, how many nodes own its group, sampled or not."""
    owned = [groups_of(info.modalities, report.names) for info in report.known.values()]
    counts = {group: sum(group in groups for groups in owned) for group in report.names}
    return {name: counts[group] for group, members in report.names.items() for name in members}


def note_owners(
    report: RoundReport, updates: Mapping[int, NodeUpdate], min_owners: int, aggregation: RobustAggregation | None
) -> None:
    """Note whose updates count for each group: nobody's for a modality that too few nodes trained.

    A node that had no sample with a modality did not train it.

    Parameters
    ----------
    report
        The round's; it says who was sent what, and gets the owners.
    updates
        Partition id -> update that can be used.
    min_owners
        As for :func:`owners_needed`.
    aggregation
        As for :func:`owners_needed`.
    """
    sent = {info.partition_id: groups for info, groups in report.sent.values()}
    for group in report.names:
        owners = [p for p in sorted(updates) if group in sent[p] and updates[p].examples_of(group) > 0]
        needed, because = owners_needed(group, min_owners, aggregation)
        if len(owners) < needed:
            found = f"{len(owners)} of {needed} nodes ({because})" if owners else "nobody"
            logger.warning("round %d: %s trained %r; it keeps its value", report.server_round, found, group)
            owners = []
        report.owners[group] = owners


def owners_needed(group: str, min_owners: int, aggregation: RobustAggregation | None) -> tuple[int, str]:
    """Return how many nodes must have trained a group for it to change, and the key that says so.

    Parameters
    ----------
    group
        A modality, or the shared group.
    min_owners
        Of a modality.
    aggregation
        What becomes of the updates; None: their mean.

    Returns
    -------
    Number and key.
    """
    needed, because = (1 if group == SHARED else min_owners), "min-owners-per-modality"
    if aggregation is not None and aggregation.owners_needed > needed:
        return aggregation.owners_needed, f"aggregation = {aggregation.name!r}"
    return needed, because
