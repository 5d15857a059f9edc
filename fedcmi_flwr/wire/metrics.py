"""Numbers of a reply's ``metrics`` record.

Each is what its key says it is, or WireError names the key.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fedcmi_flwr.wire.packing import WireError

MOST_SAMPLES = 10**12
"""No node has more samples, nor passes over them; sums over nodes stay whole numbers of 64 bits."""
LARGEST_SUM = 1e100
"""No sum of single-precision losses over that many samples is larger; sums over nodes stay
finite."""
MOST_KEYS = 8
"""Of a record in an error."""
LONGEST_NAME = 100
"""Characters of the name of a loss term or a prediction."""


NUM_EXAMPLES = "num-examples"
"""Key of a reply's number of samples, its weight."""


def sample_count(metrics: MetricRecord, key: str = NUM_EXAMPLES) -> int:
    """Return a reply's weight; raise WireError for anything but a number of samples."""
    count = metrics.get(key)
    if not isinstance(count, int) or not 1 <= count <= MOST_SAMPLES:
        raise WireError(
            f"metrics: {key} = {count!r}, need an integer from 1 (to {MOST_SAMPLES:.0e}), the "
            f"node's samples. The keys are {sorted(metrics)[:MOST_KEYS]}; weighted_by_key of "
            "FedCMI names another."
        )

    return count


def free_metrics(metrics: MetricRecord, known: Sequence[str]) -> dict[str, float | list[float]]:
    """Return a node's own metrics, which no method defines.

    One that is not finite is left out, as if it were not there.

    Parameters
    ----------
    metrics
        The record.
    known
        Keys, and starts of keys that end with a dot, which mean something to the strategy.

    Returns
    -------
    Key -> number or list of numbers.

    Raises
    ------
    WireError
        A key that cannot stand in a table and a log.
    """
    prefixes = tuple(key for key in known if key.endswith("."))
    own = [key for key in metrics if key not in known and not key.startswith(prefixes)]
    for key in own:
        _check_name(key, "")

    found: dict[str, float | list[float]] = {}
    for key in own:
        value: Any = metrics[key]
        if np.isfinite(value).all():
            found[key] = value

    return found


def numbers(metrics: MetricRecord, key: str, length: int) -> NDArray[np.float64]:
    """Return one finite number a class or bin, [length]; raise WireError for anything else."""
    values: Any = metrics.get(key)
    is_list = isinstance(values, list) and len(values) == length
    if not is_list or not all(abs(value) <= LARGEST_SUM for value in values):
        raise WireError(f"metrics: {key!r} must be {length} finite numbers, found {values!r}.")

    return np.array(values, dtype=np.float64)


def whole_numbers(metrics: MetricRecord, key: str, length: int) -> NDArray[np.int64]:
    """Return one number of samples a class or bin, [length]; raise WireError for anything else."""
    values: Any = metrics.get(key)
    is_list = isinstance(values, list) and len(values) == length
    if not is_list or not all(isinstance(value, int) for value in values):
        raise WireError(
            f"metrics: {key!r} must be {length} finite whole numbers, found {values!r}."
        )
    if not all(abs(value) <= MOST_SAMPLES for value in values):
        raise WireError(
            f"metrics: {key!r} holds a number out of range ({MOST_SAMPLES:.0e}): {values!r}."
        )

    return np.array(values, dtype=np.int64)


def numbers_below(metrics: MetricRecord, prefix: str) -> dict[str, float]:
    """Return the numbers whose keys start with ``prefix``, by the rest of their keys.

    Parameters
    ----------
    metrics
        The record.
    prefix
        What ends with a dot: "loss-sum.".

    Returns
    -------
    The rest of the key -> number; it may be NaN or Inf.

    Raises
    ------
    WireError
        A list instead of one number, or what :func:`names_below` refuses.
    """
    found: dict[str, float] = {}
    for name in names_below(metrics, prefix):
        value = metrics[prefix + name]
        if isinstance(value, list):
            raise WireError(f"metrics: {prefix}{name} must be one number, found a list.")

        found[name] = value

    return found


def names_below(metrics: MetricRecord, prefix: str) -> list[str]:
    """Return the keys that start with ``prefix``, without it; they are safe in tables and logs.

    Parameters
    ----------
    metrics
        The record.
    prefix
        What ends with a dot: "correct.".

    Returns
    -------
    The names.

    Raises
    ------
    WireError
        A name that is empty, too long, or holds what cannot be printed.
    """
    names = [key.removeprefix(prefix) for key in metrics if key.startswith(prefix)]
    for name in names:
        _check_name(name, prefix)

    return names


def _check_name(name: str, prefix: str) -> None:
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise WireError(
            f"metrics: {name!r} is no name: need 1 to {LONGEST_NAME} printable characters after "
            f"{prefix!r}."
        )
