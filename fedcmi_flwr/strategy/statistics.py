"""From the class statistics of a round's updates to the decision that goes out with the next model."""

import logging
from collections.abc import Sequence

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.privacy import Privacy
from fedcmi_flwr.methods import Method
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import SHARED, ClassStats

logger = logging.getLogger("flwr.fedcmi")


def decide(updates: Sequence[wire.NodeUpdate], report: RoundReport, method: Method, privacy: Privacy) -> None:
    """Add up the class statistics and put into the report what they say.

    Parameters
    ----------
    updates
        In the order of the partition ids.
    report
        The round's, with the owners of each group; gets the statistics and the decision.
    method
        Decides.
    privacy
        Where it is enabled: clips the statistics, adds noise, and keeps them to itself.
    """
    parts = [update.stats for update in updates if update.stats is not None]
    counting = [group for group in report.plan.names if group != SHARED and report.owners[group]]
    if privacy.enabled:
        stats = privacy.statistics(parts, counting if method.measures else [], report.plan.num_classes)
    else:
        stats = report.stats = sum(parts, start=ClassStats({}, {})).only(counting)

    report.measured = method.decide(stats)
    if method.measures and report.measured.dominant is None:
        logger.warning(
            "round %d: nobody teaches in the next round: no class was measured in two modalities",
            report.plan.server_round,
        )
