"""Positions dealt to partitions by flwr-datasets' partitioners, once on this machine.

The deal is kept in the cache.

These partitioners take longer to import than a node needs to start, and every process of a
simulation has nodes that ask for the same deal. The first one deals; the others read what it
left.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.machine.atomic_files import replacing
from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.machine.extras import MissingExtraError, needs
from fedcmi_flwr.machine.locks import locked
from fedcmi_flwr.seeding import derive_seed

PATIENCE = 300.0
"""Seconds to wait for another process that deals; then this one deals for itself."""

Key = tuple[str, float, int]
"""Partitioner, alpha of the Dirichlet distribution, and the fewest samples of a partition."""
Positions = list[NDArray[np.int64]]
"""Of each partition, [samples]."""
TINY = 1e-300
"""A share of a class that is as good as none."""


@lru_cache(maxsize=8)
def deal(
    label_bytes: bytes, groups: tuple[str, ...], key: Key, num_partitions: int, seed: int
) -> Positions:
    """Deal positions 0 .. N - 1, or find them dealt.

    Parameters
    ----------
    label_bytes
        The samples' labels, int64.
    groups
        The samples' groups.
    key
        How to deal.
    num_partitions
        Number of partitions.
    seed
        The run's seed.

    Returns
    -------
    Every position once.

    Raises
    ------
    DataError
        They cannot be dealt like that, or a partition is smaller than it may be.
    """
    labels = np.frombuffer(label_bytes, dtype=np.int64)
    _check_enough(key[0], len(labels), len(set(groups)), num_partitions, key[2])

    asked = hashlib.sha256(label_bytes)
    asked.update(json.dumps([groups, key, num_partitions, seed, _dealer_version()]).encode())
    kept = cache_directory() / "deals" / f"{asked.hexdigest()}.npz"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with locked(kept.parent, PATIENCE):
            if (found := _read(kept)) is not None:
                return found

            parts = _dealt(labels, groups, key, num_partitions, seed)
            _write(kept, parts)

            return parts
    except OSError:  # no cache, or no end of waiting
        return _dealt(labels, groups, key, num_partitions, seed)


def _dealer_version() -> str:
    try:
        return version("flwr-datasets")
    except PackageNotFoundError as error:
        raise MissingExtraError("flwr_datasets", "simulation") from error


def _read(kept: Path) -> Positions | None:
    """Return a deal that was kept; None where there is none that can be read."""
    try:
        with kept.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            return np.split(file["positions"], file["ends"])[:-1]
    except (OSError, ValueError, LookupError, BadZipFile):
        return None


def _write(kept: Path, parts: Positions) -> None:
    ends = np.cumsum([len(part) for part in parts])
    with replacing(kept) as partial, partial.open("wb") as file:
        np.savez(file, positions=np.concatenate(parts), ends=ends)


def _dealt(
    labels: NDArray[np.int64], groups: Sequence[str], key: Key, num_partitions: int, seed: int
) -> Positions:
    with needs("simulation"):
        import datasets
        from flwr_datasets import partitioner as flower

    kind, alpha, min_size = key
    generator_seed = derive_seed(seed, "partition")
    table = datasets.Dataset.from_dict(
        {"position": np.arange(len(labels)), "label": labels, "group": list(groups)}
    )
    dealer: Any
    if kind == "iid":
        table, dealer = table.shuffle(seed=generator_seed), flower.IidPartitioner(num_partitions)
    elif kind == "dirichlet":
        sizes = [len(rows) for rows in np.array_split(labels, num_partitions)]
        dealer = flower.InnerDirichletPartitioner(sizes, "label", alpha, seed=generator_seed)
        dealer._rng = _FlooredDirichlet(np.random.PCG64(generator_seed))
    else:
        dealer = flower.NaturalIdPartitioner("group")

    dealer.dataset = table
    parts = _positions(dealer, kind, num_partitions, f"{kind} partition of {len(labels)} samples")
    if kind != "natural":  # of natural groups, a small one is its own node's matter
        _check_partitions(parts, kind, min_size)

    return parts


class _FlooredDirichlet(np.random.Generator):
    """Draws the numbers that NumPy's does, but no share of a class that is 0.

    Flower divides a node's shares by their sum whenever a class is used up, and where all that
    is left of them is 0, which a small alpha makes of most, by 0. A share of ``TINY`` changes no
    draw while there are larger ones.
    """

    def dirichlet(self, alpha: Any, size: Any = None) -> NDArray[np.float64]:  # noqa: ANN401 (as NumPy has it)
        shares = np.nan_to_num(super().dirichlet(alpha, size), nan=1.0 / len(alpha))
        return np.maximum(shares, TINY)


def _check_enough(kind: str, samples: int, groups: int, num_partitions: int, min_size: int) -> None:
    """Refuse at once what no deal can do."""
    if kind == "natural" and num_partitions > groups:
        raise DataError(
            f"natural partition: {num_partitions} nodes but only {groups} groups in samples.csv; "
            f"use at most {groups} nodes or another partition."
        )
    if samples < num_partitions * min_size:
        raise DataError(
            f"{kind} partition: {samples} samples over {num_partitions} nodes leave fewer than "
            f"min-partition-size = {min_size} for some: too small to train on. Use fewer nodes or "
            "lower min-partition-size."
        )


def _positions(dealer: Any, kind: str, num_partitions: int, what: str) -> Positions:  # noqa: ANN401
    """Ask the partitioner for every part.

    Natural groups beyond the number of nodes are dealt in turn.
    """
    try:
        with warnings.catch_warnings():
            # The partitioner warns at each retry; what counts is its final word
            warnings.simplefilter("ignore")
            count = dealer.num_partitions if kind == "natural" else num_partitions
            parts = [
                np.array(dealer.load_partition(part)["position"], dtype=np.int64)
                for part in range(count)
            ]
    except ValueError as error:
        raise DataError(
            f"{what} over {num_partitions} nodes failed: {error} Use fewer nodes, a larger "
            "dirichlet-alpha or a smaller min-partition-size."
        ) from error

    return [np.concatenate(parts[first::num_partitions]) for first in range(num_partitions)]


def _check_partitions(parts: Positions, kind: str, min_size: int) -> None:
    small = [index for index, rows in enumerate(parts) if len(rows) < min_size]
    if small:
        raise DataError(
            f"{kind} partition {small[0]} has {len(parts[small[0]])} samples, fewer than "
            f"min-partition-size = {min_size}: too small to train on. Use fewer nodes or lower "
            "min-partition-size."
        )
