"""A training split in parts.

What nodes train on, and what is kept aside to evaluate or to choose on.

Where samples belong to groups (person, device, block), a part is cut by whole groups, so that
what is chosen on it holds for groups that were not trained on; else class by class.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.seeding import numpy_generator

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingParts:
    """A training split in parts that have no sample in common, each as ascending positions."""

    training: Positions
    """What :func:`fedcmi_flwr.simulation.partitions.partition` deals to the nodes."""
    validation: Positions
    """What is evaluated on instead of the test split; empty with ``validation-share`` 0."""
    calibration: Positions
    """What decisions are chosen on; empty with ``calibration-share`` 0."""


def training_parts(samples: Samples, config: DataConfig, seed: int) -> TrainingParts:
    """Cut a training split as the configuration asks.

    The validation part first, calibration from what is left.

    Parameters
    ----------
    samples
        The whole split.
    config
        Gives ``validation-share`` and ``calibration-share``.
    seed
        The run's seed.

    Returns
    -------
    The parts.

    Raises
    ------
    DataError
        As for :func:`cut_part`.
    """
    labels, groups = samples.labels, samples.sources
    rest, validation = cut_part(labels, groups, config.validation_share, seed, "validation")
    training, calibration = cut_part(
        labels[rest], groups[rest], config.calibration_share, seed, "calibration"
    )

    return TrainingParts(rest[training], validation, rest[calibration])


def cut_part(
    labels: NDArray[np.int64], groups: NDArray[np.str_], share: float, seed: int, purpose: str
) -> tuple[Positions, Positions]:
    """Cut a part off: by whole groups where two or more are left of which any has several samples,
    else by class.

    Parameters
    ----------
    labels
        [samples].
    groups
        [samples]; a sample whose group is unknown is a group of its own.
    share
        In [0, 0.5].
    seed
        The run's seed.
    purpose
        What the part is for, "validation" or "calibration"; each is drawn independently.

    Returns
    -------
    Positions to train on and positions of the part, both ascending.

    Raises
    ------
    DataError
        No group can be kept aside, since each has all samples of some class.
    """
    part = np.empty(0, dtype=np.int64)
    several = 1 < len(np.unique(groups)) < len(groups)
    if share > 0 and several:
        part = _by_group(labels.tobytes(), tuple(groups.tolist()), share, seed, purpose)
        if not len(part):
            raise DataError(
                f"{purpose}-share = {share}: every group has all samples of some class, so none "
                "can be kept aside; set it to 0, or prepare the data with other groups."
            )
    elif share > 0:
        part = _by_class(labels, share, numpy_generator(seed, purpose))

    return np.setdiff1d(np.arange(len(labels)), part), part


def _by_class(labels: NDArray[np.int64], share: float, generator: np.random.Generator) -> Positions:
    """Return this share of each class, rounded such that at least one sample stays for training."""
    chosen = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels):
        order = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(order[: min(round(share * len(order)), len(order) - 1)])

    return np.sort(np.concatenate(chosen))


@lru_cache(maxsize=8)
def _by_group(
    label_bytes: bytes, groups: tuple[str, ...], share: float, seed: int, purpose: str
) -> Positions:
    """Return whole groups whose share of every class is as near to ``share`` as groups in a random
    order get.

    A group is taken if that brings the shares of its classes nearer, and some sample of each
    stays for training. Where no group does, the one that moves them least too far is taken: a
    part is not empty unless it must be. Cached, since every simulated node of a process asks for
    the same cut.
    """
    _, classes = np.unique(np.frombuffer(label_bytes, dtype=np.int64), return_inverse=True)
    names, members = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), classes.max() + 1))
    np.add.at(counts, (members, classes), 1)
    total = counts.sum(0)

    def distance(held: NDArray[np.float64]) -> float:
        return float((np.square(held - share * total) / total).sum())

    order = numpy_generator(seed, purpose).permutation(len(names)).tolist()
    chosen, held = list[int](), np.zeros_like(total)
    for group in order:
        more = held + counts[group]
        if (more < total).all() and distance(more) < distance(held):
            chosen.append(group)
            held = more

    possible = [group for group in order if (counts[group] < total).all()]
    if not chosen and possible:
        chosen = [min(possible, key=lambda group: distance(counts[group]))]

    return np.flatnonzero(np.isin(members, chosen))
