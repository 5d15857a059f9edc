"""What a node's reply must keep to; everything else is refused with a reason that names the key."""

from collections.abc import Mapping

import numpy as np
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fedcmi_flwr.aggregation import AnyArray
from fedcmi_flwr.packing import WireError
from fedcmi_flwr.types import ClassStats


def check_arrays(arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray]) -> None:
    """Raise WireError unless the arrays have the names, shapes and dtypes of those sent, and finite values."""
    missing, extra = sorted(set(sent) - set(arrays)), sorted(set(arrays) - set(sent))
    if missing or extra:
        raise WireError(f"arrays: missing {missing}, extra {extra}.")
    for name, array in arrays.items():
        expected = sent[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise WireError(
                f"arrays: {name!r} is {array.dtype} {list(array.shape)}, expected {expected.dtype} "
                f"{list(expected.shape)}."
            )
    check_finite(arrays)


def check_finite(arrays: Mapping[str, AnyArray]) -> None:
    """Raise WireError if a floating-point array holds NaN or Inf."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise WireError(f"arrays: {name!r} holds NaN or Inf.")


def check_stats(stats: ClassStats) -> None:
    """Raise WireError unless 0 <= probability sum <= count for every class and modality."""
    for name, count in stats.count.items():
        total = stats.probability_sum[name]
        if (count < 0).any() or (total < 0).any() or (total > count * (1 + 1e-6)).any():
            raise WireError(f"metrics: class statistics of {name!r} are out of range: need 0 <= sum <= count.")


def per_class_numbers(metrics: MetricRecord, key: str, num_classes: int) -> NDArray[np.float64]:
    """Return a metric of one finite number a class, [classes]; raise WireError for anything else."""
    values = np.asarray(metrics.get(key, []), dtype=np.float64)
    if values.shape != (num_classes,) or not np.isfinite(values).all():
        raise WireError(f"metrics: {key!r} must be {num_classes} finite numbers, found {metrics.get(key)!r}.")
    return values


def per_class_counts(metrics: MetricRecord, key: str, num_classes: int) -> NDArray[np.int64]:
    """Return a metric of one whole number a class, [classes]; raise WireError for anything else."""
    values = metrics.get(key, [])
    if not isinstance(values, list) or len(values) != num_classes or not all(isinstance(v, int) for v in values):
        raise WireError(f"metrics: {key!r} must be {num_classes} finite whole numbers, found {metrics.get(key)!r}.")
    return np.array(values, dtype=np.int64)


def numbers_below(metrics: MetricRecord, prefix: str) -> dict[str, float]:
    """Return the single-number metrics whose keys start with ``prefix``, under the rest of their keys."""
    found = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
    lists = [key for key, value in found.items() if isinstance(value, list)]
    if lists:
        raise WireError(f"metrics: {prefix}{lists[0]} must be one number, found a list.")
    return {key: value for key, value in found.items() if not isinstance(value, list)}
