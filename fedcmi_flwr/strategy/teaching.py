"""From the class statistics of a round to the modality that teaches in the next one."""

import logging
from collections.abc import Sequence

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.privacy import Privacy
from fedcmi_flwr.methods import Method
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import SHARED, ClassStats

logger = logging.getLogger("flwr.fedcmi")


def next_teacher(
    report: RoundReport, updates: Sequence[wire.NodeUpdate], method: Method, privacy: Privacy
) -> Dominance:
    """Return the dominant modality and the temperatures that go out with the next model.

    Parameters
    ----------
    report
        The round's, with the owners of each group; gets the statistics and what they say.
    updates
        In the order of the partition ids.
    method
        It decides.
    privacy
        Where it is enabled, the sums are noisy, and not released.

    Returns
    -------
    What is sent in the next round.
    """
    parts = [update.stats for update in updates if update.stats is not None]
    trained = [group for group in report.plan.names if group != SHARED and report.owners[group]]
    if privacy.enabled:
        stats = privacy.statistics(
            parts, trained if method.measures else [], report.plan.num_classes
        )
    else:
        stats = report.stats = sum(parts, start=ClassStats({}, {})).only(trained)

    report.measured = method.decide(stats)
    if method.measures and report.measured.dominant is None:
        logger.warning(
            "round %d: no dominant modality: no class was measured in every modality compared",
            report.plan.server_round,
        )

    return method.broadcast(report.measured)
