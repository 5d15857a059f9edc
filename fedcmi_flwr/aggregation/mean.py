"""Weighted means of parameter groups over the nodes that trained them. NumPy only."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import numpy as np

from fedcmi_flwr.types import AnyArray


def weighted_mean(arrays: Iterable[AnyArray], weights: Sequence[float]) -> AnyArray:
    """Average floating-point arrays; integer and boolean ones (counters) take the maximum.

    Parameters
    ----------
    arrays
        One or more, one per node, all of one shape and dtype; each is let go before the next one
        is taken.
    weights
        One per node, above 0.

    Returns
    -------
    Array of the same shape and dtype. Sums are made in double precision, in the given order.

    Examples
    --------
    >>> weighted_mean([np.array([0.0, 4.0]), np.array([4.0, 0.0])], [1, 3])
    array([3., 1.])
    >>> weighted_mean([np.array([7]), np.array([9])], [1, 1])
    array([9])
    """
    pairs = zip(arrays, weights, strict=True)
    array, weight = next(pairs)
    shape, dtype = array.shape, array.dtype
    if not np.issubdtype(dtype, np.floating):
        return np.asarray(reduce(np.maximum, (other for other, _ in pairs), array), dtype=dtype)

    total, part = np.zeros(shape), np.empty(shape)
    total += np.multiply(array, weight, out=part, dtype=np.float64)
    for array, weight in pairs:
        total += np.multiply(array, weight, out=part, dtype=np.float64)

    mean: AnyArray = np.asarray(total / float(sum(weights)), dtype=dtype)

    return mean


def moving_average(
    average: Mapping[str, AnyArray] | None, arrays: Mapping[str, AnyArray], share: float
) -> Mapping[str, AnyArray]:
    """Return share * average + (1 - share) * arrays; integer arrays are taken as they are.

    Parameters
    ----------
    average
        The average so far; None: there is none yet, ``arrays`` is the first.
    arrays
        Name -> array of the new global model.
    share
        Of the old average, in [0, 1); 0 gives ``arrays`` itself.

    Returns
    -------
    Name -> array, of the dtypes of ``arrays``.
    """
    if average is None or share == 0:
        return arrays
    return {
        name: weighted_mean([average[name], array], [share, 1 - share])
        if np.issubdtype(array.dtype, np.floating)
        else array
        for name, array in arrays.items()
    }


def aggregate_groups(
    current: Mapping[str, AnyArray],
    updates: Sequence[tuple[Mapping[str, AnyArray], Mapping[str, float]]],
) -> dict[str, AnyArray]:
    """Average each array over the nodes that trained it; what nobody trained keeps its value.

    Parameters
    ----------
    current
        The global model: name -> array.
    updates
        (name -> array, name -> weight) of each node: n_{k,m} above 0, of the arrays that it
        trained and no others.

    Returns
    -------
    The new global model, with the names and order of ``current``. The order of ``updates``
    decides the order of the floating-point sums: give them in a fixed order to get the same
    bits.
    """
    averaged = {}
    for name, value in current.items():
        weights = [weight[name] for _, weight in updates if name in weight]
        owners = (arrays[name] for arrays, weight in updates if name in weight)
        averaged[name] = weighted_mean(owners, weights) if weights else value

    return averaged
