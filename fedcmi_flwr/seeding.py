"""The only source of randomness: a generator for every (seed, purpose, round, partition)."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _sequence(seed: int, purpose: str, server_round: int, partition: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), server_round, partition])


def derive_seed(seed: int, purpose: str, server_round: int = 0, partition: int = 0) -> int:
    """Return a 31-bit seed for libraries that accept nothing but an integer.

    Parameters
    ----------
    seed
        The run's seed, 0 or greater.
    purpose
        What the numbers are for; different purposes give independent streams.
    server_round
        Round the numbers belong to, 0 outside of rounds.
    partition
        Partition id the numbers belong to (never a node id: those are random per run).

    Returns
    -------
    An integer in [0, 2**31).

    Examples
    --------
    >>> derive_seed(0, "model") == derive_seed(0, "model")
    True
    >>> derive_seed(0, "model") == derive_seed(0, "sampling")
    False
    """
    return int(_sequence(seed, purpose, server_round, partition).generate_state(1)[0]) >> 1


def numpy_generator(
    seed: int, purpose: str, server_round: int = 0, partition: int = 0
) -> np.random.Generator:
    """Return a NumPy generator; the parameters are those of :func:`derive_seed`."""
    return np.random.default_rng(_sequence(seed, purpose, server_round, partition))


def torch_generator(
    seed: int, purpose: str, server_round: int = 0, partition: int = 0
) -> torch.Generator:
    """Return a CPU torch generator; the parameters are those of :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, server_round, partition))


@contextmanager
def torch_global_seed(
    seed: int, purpose: str, server_round: int = 0, partition: int = 0
) -> Iterator[None]:
    """Seed torch's global generator for the block, and restore it afterwards.

    For code that draws from the global generator and cannot be given one, such as module
    initialisation. The parameters are those of :func:`derive_seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, purpose, server_round, partition))
        yield
