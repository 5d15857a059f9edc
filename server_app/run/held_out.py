"""Samples that the server keeps for itself.

Samples to report on, and others to choose on how the model decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.config.selection import OFF
from fedcmi_flwr.data.finite import check_finite
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.run_config import RunConfig
from fedcmi_flwr.simulation.parts import training_parts
from fedcmi_flwr.types import Modality

VALIDATION_SPLIT = "val"
"""What preparations call the split that is neither for training nor for testing."""


def reported_samples(
    prepared: Path, modalities: Sequence[Modality], config: DataConfig, seed: int
) -> Samples:
    """Return the samples that accuracies are measured on.

    Test split, or ``validation-share`` of the training split.

    Parameters
    ----------
    prepared
        The prepared directory.
    modalities
        What the federation trains on.
    config
        Gives the shares that are cut off the training split.
    seed
        The run's seed.

    Returns
    -------
    The samples that have any modality.
    """
    if config.validation_share == 0:
        return _finite(load_split(prepared, "test", modalities), "test")

    train = load_split(prepared, "train", modalities)
    chosen = training_parts(train, config, seed).validation

    return _part(train, chosen)


def calibration_samples(
    prepared: Path, modalities: Sequence[Modality], config: DataConfig, seed: int
) -> Samples | None:
    """Return the samples on which the model's decisions are chosen.

    Samples that are not reported on, and never the test split.

    Parameters
    ----------
    prepared
        The prepared directory.
    modalities
        What the federation trains on.
    config
        Gives the shares that are cut off the training split.
    seed
        The run's seed.

    Returns
    -------
    The data's own validation split, or else a part of the training split; None where there is
    neither.

    Raises
    ------
    ConfigError
        A ``calibration-share`` of data that has a validation split.
    """
    share = config.calibration_share
    if read_spec(prepared).splits.get(VALIDATION_SPLIT, 0) > 0:
        if share > 0:
            raise ConfigError(
                f"calibration-share = {share}: {prepared} has a split {VALIDATION_SPLIT!r} for "
                "that, so no training sample is needed. Set calibration-share to 0."
            )
        return _finite(load_split(prepared, VALIDATION_SPLIT, modalities), VALIDATION_SPLIT)

    if share == 0:
        return None

    train = load_split(prepared, "train", modalities)
    chosen = training_parts(train, config, seed).calibration

    return _part(train, chosen)


def selection_samples(
    reported: Samples, calibration: Samples | None, config: RunConfig
) -> Samples | None:
    """Return the samples on which the best round is chosen; None where that is off.

    Parameters
    ----------
    reported
        From :func:`reported_samples`.
    calibration
        From :func:`calibration_samples`.
    config
        The run's.

    Returns
    -------
    Samples that nobody trains on, of the validation split or a part of the training split.

    Raises
    ------
    ConfigError
        There are none but the test split.
    """
    if config.selection.keep_best == OFF:
        return None
    if calibration is None and config.data.validation_share == 0:
        raise ConfigError(
            f"keep-best = {config.selection.keep_best!r}: the data has no split "
            f"{VALIDATION_SPLIT!r} to choose on, and the test split is not for that. In a "
            "simulation set calibration-share (0.1), or validation-share."
        )

    return reported if calibration is None else calibration


def evaluated_on(config: Mapping[str, Any]) -> str:
    """Return what a run was evaluated on.

    The test split, or the validation part that its configuration asks for.
    """
    return (
        "a validation part of the training split"
        if config.get("validation-share")
        else "the test split"
    )


def calibrated_on(config: Mapping[str, Any]) -> str:
    """Return what a run's decisions were chosen on; empty where it had no such samples."""
    if config["dataset"].get("splits", {}).get(VALIDATION_SPLIT):
        return f"the split {VALIDATION_SPLIT!r}"

    share = config.get("calibration-share", 0)
    return f"{share:.0%} of the training split, which no node trained on" if share else ""


def _part(samples: Samples, chosen: NDArray[np.int64]) -> Samples:
    """Return those of the chosen samples of the training split that have any modality."""
    return _finite(samples.select(np.intersect1d(samples.rows, chosen)), "train")


def _finite(samples: Samples, split: str) -> Samples:
    """Return the samples without NaN or Inf: with them every model would look unusable."""
    check_finite(samples, split)
    return samples
