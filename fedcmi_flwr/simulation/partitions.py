"""Who gets which samples: a partition of those that are trained on, and what a node has of each."""

from dataclasses import replace

import numpy as np

from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.simulation.deal import deal
from fedcmi_flwr.simulation.parts import training_parts


def partition(
    samples: Samples, config: DataConfig, num_partitions: int, partition_id: int, seed: int
) -> Samples:
    """Return one partition of the training split without the parts that are kept aside.

    Parameters
    ----------
    samples
        The whole split.
    config
        Partitioner and its settings, both shares that are cut off, and ``missing-share``.
    num_partitions
        Number of partitions.
    partition_id
        Which one, from 0.
    seed
        The run's seed.

    Returns
    -------
    The partition's samples.

    Raises
    ------
    DataError
        The data cannot be dealt like that, or a partition is smaller than ``min-partition-size``.
    """
    key = (config.partition, config.dirichlet_alpha, config.min_partition_size)
    pool = training_parts(samples, config, seed).training
    labels, groups = samples.labels[pool], samples.sources[pool]
    rows = pool[
        deal(labels.tobytes(), tuple(groups.tolist()), key, num_partitions, seed)[partition_id]
    ]
    if config.partition == "natural" and len(rows) < config.min_partition_size:
        raise DataError(
            f"natural partition {partition_id} has {len(rows)} samples, fewer than "
            f"min-partition-size = {config.min_partition_size}: too small to train on, so this "
            "node takes no part."
        )

    usable = rows[samples.has[rows].any(axis=1)]
    if len(usable) < 2:
        names = [modality.name for modality in samples.modalities]
        raise DataError(
            f"{config.partition} partition {partition_id}: {len(usable)} of its {len(rows)} "
            f"samples have any of {names}; a batch needs two. Use fewer nodes or other modalities."
        )

    return with_missing(samples.select(usable), config.missing_share, partition_id, seed)


def with_missing(samples: Samples, share: float, partition_id: int, seed: int) -> Samples:
    """Take one modality away from a share of the samples that have two or more.

    The arrays stay as they are; batches blank what a sample has not.

    Parameters
    ----------
    samples
        A partition's.
    share
        Of its samples with two or more modalities, in [0, 1); rounded to whole samples.
    partition_id
        Which partition, from 0.
    seed
        The run's seed.

    Returns
    -------
    The same samples; which of them lose what does not depend on the order of their modalities.
    """
    several = samples.rows[samples.has[samples.rows].sum(axis=1) > 1]
    count = round(share * len(several))
    if count == 0:
        return samples

    generator = numpy_generator(seed, "missing modalities", partition=partition_id)
    rows = generator.permutation(several)[:count]
    by_name = np.argsort([modality.name for modality in samples.modalities])
    chance = np.empty((count, len(by_name)))
    chance[:, by_name] = generator.random(chance.shape)
    has = samples.has.copy()
    has[rows, np.where(has[rows], chance, -1).argmax(axis=1)] = False

    return replace(samples, has=has)


def own_samples(samples: Samples, config: DataConfig, split: str) -> Samples:
    """Return all samples of a device that has a prepared directory of its own.

    Parameters
    ----------
    samples
        A split of the device's directory.
    config
        Gives ``min-partition-size``; its ``validation-share``, ``calibration-share`` and
        ``missing-share`` must be 0.
    split
        The split's name; only the training split must have that many samples.

    Returns
    -------
    The same samples.

    Raises
    ------
    DataError
        Too few samples to train on, or a share that is for simulations.
    """
    shares = {
        "validation-share": config.validation_share,
        "calibration-share": config.calibration_share,
        "missing-share": config.missing_share,
    }
    for key in (key for key, share in shares.items() if share > 0):
        raise DataError(
            f"{key} = {shares[key]}: is for simulations, where server and nodes share a prepared "
            f"directory; this node has data of its own. Set {key} to 0."
        )

    if split == "train" and len(samples) < config.min_partition_size:
        names = [modality.name for modality in samples.modalities]
        raise DataError(
            f"this node has {len(samples)} training samples with any of {names}, fewer than "
            f"min-partition-size = {config.min_partition_size}: too small to train on. Give it "
            "more data or lower min-partition-size."
        )

    return samples
