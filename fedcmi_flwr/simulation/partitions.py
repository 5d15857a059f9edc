"""Who gets which samples (flwr-datasets' partitioners)."""

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.seeding import derive_seed, numpy_generator
from fedcmi_flwr.simulation.parts import training_parts

TINY = 1e-300
"""A share of a class that is as good as none."""


def partition(samples: Samples, config: DataConfig, num_partitions: int, partition_id: int, seed: int) -> Samples:
    """Return one partition of the training split, of which the parts that nobody trains on are cut off first.

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
    rows = pool[_deal(labels.tobytes(), tuple(groups.tolist()), key, num_partitions, seed)[partition_id]]
    if config.partition == "natural" and len(rows) < config.min_partition_size:
        raise DataError(
            f"natural partition {partition_id} has {len(rows)} samples, fewer than min-partition-size = "
            f"{config.min_partition_size}: too small to train on, so this node takes no part."
        )
    usable = rows[samples.has[rows].any(axis=1)]
    if len(usable) < 2:
        names = [modality.name for modality in samples.modalities]
        raise DataError(
            f"{config.partition} partition {partition_id}: {len(usable)} of its {len(rows)} samples have any of "
            f"{names}; a batch needs two. Use fewer nodes or other modalities."
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
        Gives ``min-partition-size``; its ``validation-share``, ``calibration-share`` and ``missing-share`` must be 0.
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
            f"{key} = {shares[key]}: is for simulations, where server and nodes share a prepared directory; this node "
            f"has data of its own. Set {key} to 0."
        )
    if split == "train" and len(samples) < config.min_partition_size:
        names = [modality.name for modality in samples.modalities]
        raise DataError(
            f"this node has {len(samples)} training samples with any of {names}, fewer than min-partition-size = "
            f"{config.min_partition_size}: too small to train on. Give it more data or lower min-partition-size."
        )
    return samples


class _FlooredDirichlet(np.random.Generator):
    """Draws the numbers that NumPy's does, but no share of a class that is 0.

    Flower divides a node's shares by their sum whenever a class is used up, and where all that is left of them is 0,
    which a small alpha makes of most, by 0. A share of ``TINY`` changes no draw while there are larger ones.
    """

    def dirichlet(self, alpha: Any, size: Any = None) -> NDArray[np.float64]:  # noqa: ANN401 (as NumPy has it)
        shares = np.nan_to_num(super().dirichlet(alpha, size), nan=1.0 / len(alpha))
        return np.maximum(shares, TINY)


@lru_cache(maxsize=8)
def _deal(
    label_bytes: bytes, groups: tuple[str, ...], key: tuple[str, float, int], num_partitions: int, seed: int
) -> list[NDArray[np.int64]]:
    """Deal positions 0 .. N - 1; cached, since every simulated node of a process asks for the same deal."""
    with needs("simulation"):
        import datasets
        from flwr_datasets import partitioner as flower

    kind, alpha, min_size = key
    labels = np.frombuffer(label_bytes, dtype=np.int64)
    _check_enough(kind, len(labels), len(set(groups)), num_partitions, min_size)
    chance = derive_seed(seed, "partition")
    table = datasets.Dataset.from_dict({"position": np.arange(len(labels)), "label": labels, "group": list(groups)})
    dealer: Any
    if kind == "iid":
        table, dealer = table.shuffle(seed=chance), flower.IidPartitioner(num_partitions)
    elif kind == "dirichlet":
        sizes = [len(rows) for rows in np.array_split(labels, num_partitions)]
        dealer = flower.InnerDirichletPartitioner(sizes, "label", alpha, seed=chance)
        dealer._rng = _FlooredDirichlet(np.random.PCG64(chance))
    else:
        dealer = flower.NaturalIdPartitioner("group")
    dealer.dataset = table
    parts = _positions(dealer, kind, num_partitions, f"{kind} partition of {len(labels)} samples")
    if kind != "natural":  # of natural groups, a small one is its own node's matter
        _check_partitions(parts, kind, min_size)
    return parts


def _check_enough(kind: str, samples: int, groups: int, num_partitions: int, min_size: int) -> None:
    """Refuse at once what no deal can do."""
    if kind == "natural" and num_partitions > groups:
        raise DataError(
            f"natural partition: {num_partitions} nodes but only {groups} groups in samples.csv; "
            f"use at most {groups} nodes or another partition."
        )
    if samples < num_partitions * min_size:
        raise DataError(
            f"{kind} partition: {samples} samples over {num_partitions} nodes leave fewer than min-partition-size = "
            f"{min_size} for some: too small to train on. Use fewer nodes or lower min-partition-size."
        )


def _positions(dealer: Any, kind: str, num_partitions: int, what: str) -> list[NDArray[np.int64]]:  # noqa: ANN401
    """Ask the partitioner for every part; natural groups beyond the number of nodes are dealt in turn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the partitioner warns at each retry; what counts is its final word
            count = dealer.num_partitions if kind == "natural" else num_partitions
            parts = [np.array(dealer.load_partition(part)["position"], dtype=np.int64) for part in range(count)]
    except ValueError as error:
        raise DataError(
            f"{what} over {num_partitions} nodes failed: {error} Use fewer nodes, a larger dirichlet-alpha "
            "or a smaller min-partition-size."
        ) from error
    return [np.concatenate(parts[first::num_partitions]) for first in range(num_partitions)]


def _check_partitions(parts: list[NDArray[np.int64]], kind: str, min_size: int) -> None:
    small = [index for index, rows in enumerate(parts) if len(rows) < min_size]
    if small:
        raise DataError(
            f"{kind} partition {small[0]} has {len(parts[small[0]])} samples, fewer than min-partition-size = "
            f"{min_size}: too small to train on. Use fewer nodes or lower min-partition-size."
        )
