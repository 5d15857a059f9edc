"""Why a round's updates are too few for the model to change, and how many such rounds a run puts up
with.
"""

import logging

from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.strategy.owners import owners_needed
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.strategy.tolerance import Tolerance
from fedcmi_flwr.types import SHARED

logger = logging.getLogger("flwr.fedcmi")


class FailureBudget:
    """Failed rounds that may follow now.

    None before the first success, where waiting would not help.

    Parameters
    ----------
    most
        As many as may follow a success.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = 0

    def renew(self) -> None:
        """Note that a round succeeded."""
        self._left = self._most

    def spend(self, reason: str) -> None:
        """Note that a round failed; raise :class:`RoundFailedError` where that was one too many."""
        if self._left == 0:
            raise RoundFailedError(reason)

        self._left -= 1
        logger.warning(
            "%s The model stays as it was; %d more such rounds may follow.", reason, self._left
        )


def why_failed(
    report: RoundReport, num_updates: int, tolerance: Tolerance, aggregation: RobustAggregation
) -> str:
    """Return why a round fails; empty where it does not.

    Parameters
    ----------
    report
        The round's, with the owners of each group.
    num_updates
        Replies that can be used.
    tolerance
        What the round needs.
    aggregation
        It may need more owners of a group.

    Returns
    -------
    The reason, with the round and the key that decides.
    """
    if report.failed:
        return report.failed

    where = f"round {report.plan.server_round}"
    if num_updates < tolerance.min_replies:
        first = report.refused[0] if report.refused else "no more nodes were asked to train."
        usable = "none" if num_updates == 0 else f"{num_updates}"
        needed = "" if num_updates == 0 else f", min-replies = {tolerance.min_replies}"

        return (
            f"{where}: {usable} of {len(report.plan.sent)} replies can be used{needed}. The "
            f"first: {first}"
        )

    modalities = [group for group in report.plan.names if group != SHARED]
    if not any(report.owners[modality] for modality in modalities):
        least, because = owners_needed(modalities[0], tolerance, aggregation)
        return f"{where}: no modality was trained by {least} nodes ({because})."

    return ""
