"""A run that begins with the weights of a trained model."""

import logging
from collections.abc import Sequence
from pathlib import Path

from fedcmi_flwr.inference.predictor import find_model
from fedcmi_flwr.models.file import CheckpointError, load_model
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.models.warm_start import take_over
from fedcmi_flwr.run_config import RunConfig

logger = logging.getLogger("flwr.fedcmi")


def start_from(config: RunConfig, model: MultimodalModel, classes: Sequence[str]) -> None:
    """Load what a trained model and a run's have in common.

    Do nothing where none is named, or a checkpoint follows.

    Parameters
    ----------
    config
        The run's; it may name a model file or a run directory.
    model
        The run's, initialised; changed in place.
    classes
        The run's.

    Raises
    ------
    CheckpointError
        It is no model of this project, or does not fit.
    FileNotFoundError
        There is none.
    """
    if not config.model.start_from or config.checkpoints.resume:
        return

    path = Path(config.model.start_from)
    other, metadata = load_model(find_model(path))
    try:
        taken = take_over(model, classes, other, metadata["classes"])
    except CheckpointError as error:
        raise CheckpointError(f"start-from = {str(path)!r}: {error}") from error

    logger.info("began with %d of %d arrays of %s", len(taken), len(model.trained_state()), path)
