"""The end of a run: how its model decides from each subset of the modalities, and how well."""

import logging
from typing import Any

from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.evaluation.calibration import calibrate
from fedcmi_flwr.evaluation.counts import accuracy_matrix
from fedcmi_flwr.evaluation.decision import Decisions, subset_name, uncalibrated
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Votes
from server_app.run.held_out import VALIDATION_SPLIT
from server_app.run.matrix import matrix_rows

NOT_CALIBRATED = (
    f"confidences are not calibrated: the data has no split {VALIDATION_SPLIT!r}; in a simulation "
    "set calibration-share"
)
logger = logging.getLogger("flwr.fedcmi")


def conclude(
    model: MultimodalModel, reported: Samples, calibration: Samples | None, votes: Votes
) -> tuple[Decisions, list[dict[str, Any]]]:
    """Choose how a model decides, and measure it.

    Parameters
    ----------
    model
        The trained model.
    reported
        The samples that accuracies are measured on.
    calibration
        The samples on which decisions are chosen; None: the method's votes decide, not calibrated.
    votes
        The method's own.

    Returns
    -------
    The decisions, and the rows of the accuracy matrix.
    """
    modalities, device = model.spec.modalities, next(model.parameters()).device
    by_votes = Decisions(modalities, uncalibrated(votes))
    before = accuracy_matrix(model, reported.evaluation_batches(modalities, device), by_votes)
    if calibration is None:
        logger.info(NOT_CALIBRATED)
        return by_votes, matrix_rows(before, before, by_votes)

    decisions, reasons = calibrate(model, calibration.evaluation_batches(modalities, device), votes)
    for subset, reason in reasons.items():
        logger.warning("%s: its confidences are not calibrated: %s", subset_name(subset), reason)

    found = accuracy_matrix(model, reported.evaluation_batches(modalities, device), decisions)

    return decisions, matrix_rows(found, before, decisions)
