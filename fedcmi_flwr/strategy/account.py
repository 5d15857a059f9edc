"""The account of differential privacy.

What a round will release is booked before any node is asked.
"""

from collections.abc import Mapping

from fedcmi_flwr.aggregation.privacy import Privacy, check_arrays
from fedcmi_flwr.methods import Method
from fedcmi_flwr.strategy.round_report import RoundReport


def charge(
    report: RoundReport, privacy: Privacy, releases: Mapping[int, int], method: Method
) -> dict[int, int]:
    """Book what a round will release of the nodes that it asks.

    Parameters
    ----------
    report
        The round's, with the nodes that were chosen; gets what is spent after it.
    privacy
        Its budget.
    releases
        The account so far: partition id -> vectors of the node that went into noisy sums.
    method
        Its class statistics are one more vector.

    Returns
    -------
    The account after the round.

    Raises
    ------
    PrivacyBudgetError
        The round would exceed the budget.
    """
    plan = report.plan
    check_arrays(plan.arrays)
    asked = {
        partition: len(groups) + method.measures
        for partition, groups in plan.groups_by_partition.items()
    }
    booked = privacy.charge(releases, asked)
    report.privacy = privacy.spent(booked)

    return booked
