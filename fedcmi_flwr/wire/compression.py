"""A node's update in few bytes: int8 with a scale for each channel, or the largest entries alone.

What is compressed is the difference from the weights that were sent, of float32 arrays with two
axes or more; biases, norms and counters travel whole. What compression leaves out is the node's
to keep and to add to its next update (error feedback: Seide et al., Interspeech 2014; top-k:
Stich et al., NeurIPS 2018).

A reply's record ``compressed`` holds, over all compressed arrays by name::

    int8    codes [numbers], int8, and scales [channels], float32, a channel being a row of the first axis
    top-k   indices [k], int64, growing, into the arrays laid end to end, and values [k], float32
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.packing import WireError, decode

RECORD = "compressed"
"""Name of the reply's record."""
LARGEST_CODE = 127
"""Of int8, both ways."""


@dataclass(frozen=True)
class Compressed:
    """A compressed update."""

    record: ArrayRecord
    """What travels."""
    names: tuple[str, ...]
    """The arrays in it, in order."""
    update: Mapping[str, AnyArray]
    """What the server will read from it, name -> difference."""


def compressible(sent: Mapping[str, AnyArray]) -> tuple[str, ...]:
    """Return the names of the arrays that are compressed, in order."""
    wide = {name for name, array in sent.items() if array.ndim > 1 and array.size > 0}
    return tuple(sorted(name for name in wide if sent[name].dtype == np.float32))


def compress(update: Mapping[str, AnyArray], how: str, share: float) -> Compressed:
    """Compress an update.

    Parameters
    ----------
    update
        Name -> difference, float32, each with two axes or more.
    how
        "int8" or "top-k".
    share
        Of all numbers, those that "top-k" keeps, in (0, 1]; at least one.

    Returns
    -------
    The compressed update.

    Raises
    ------
    ValueError
        Another way, or nothing to compress.
    """
    names = tuple(sorted(update))
    if how not in ("int8", "top-k") or not names:
        raise ValueError(
            f"cannot compress {len(names)} arrays by {how!r}; choose int8 or top-k, or none."
        )

    if how == "int8":
        record = _to_int8([update[name] for name in names])
    else:
        record = _to_top_k(np.concatenate([update[name].ravel() for name in names]), share)

    return Compressed(record, names, decompress(record, update))


def decompress(record: ArrayRecord, sent: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Reverse :func:`compress`.

    Parameters
    ----------
    record
        The reply's ``compressed``.
    sent
        Arrays of the shapes that were compressed; others are passed over.

    Returns
    -------
    Name -> difference, float32.

    Raises
    ------
    WireError
        Other arrays than a way of compression has, of another dtype or size, or numbers out of
        range.
    """
    shapes = {name: sent[name].shape for name in compressible(sent)}
    arrays = {key: decode(record[key], f"{RECORD}/{key}") for key in record}
    if set(arrays) == {"codes", "scales"}:
        flat = _from_int8(arrays["codes"], arrays["scales"], list(shapes.values()))
    elif set(arrays) == {"indices", "values"}:
        flat = _from_top_k(
            arrays["indices"], arrays["values"], sum(map(math.prod, shapes.values()))
        )
    else:
        raise WireError(
            f"{RECORD}: holds {sorted(arrays)}, need codes and scales, or indices and values."
        )

    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    pieces = np.split(flat, ends[:-1])

    return {name: piece.reshape(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}


def decompressed(record: ArrayRecord, sent: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return the weights of a compressed update by name.

    ``sent`` and errors as for :func:`decompress`.
    """
    update = decompress(record, sent)
    with np.errstate(over="ignore"):  # a sum that is no longer finite is refused with all others
        return {name: np.add(sent[name], update[name]) for name in update}


def _to_int8(arrays: list[AnyArray]) -> ArrayRecord:
    codes: list[AnyArray] = []
    scales: list[AnyArray] = []
    for array in arrays:
        rows = array.reshape(len(array), -1)
        scale = np.abs(rows).max(axis=1, initial=0.0) / np.float32(LARGEST_CODE)

        steps = np.where(scale > 0, scale, 1)[:, None]  # a channel of zeros has codes of zero
        codes.append(np.rint(rows / steps).astype(np.int8).ravel())
        scales.append(scale.astype(np.float32))

    return ArrayRecord(
        {"codes": Array(np.concatenate(codes)), "scales": Array(np.concatenate(scales))}
    )


def _from_int8(codes: AnyArray, scales: AnyArray, shapes: list[tuple[int, ...]]) -> AnyArray:
    numbers, channels = sum(map(math.prod, shapes)), sum(shape[0] for shape in shapes)
    _check("codes", codes, np.int8, numbers)
    _check("scales", scales, np.float32, channels)
    if not np.isfinite(scales).all() or (np.signbit(scales) & (scales != 0)).any():
        raise WireError(f"{RECORD}: a scale is below 0, NaN or Inf.")

    lengths = [math.prod(shape[1:]) for shape in shapes for _ in range(shape[0])]

    return codes.astype(np.float32) * np.repeat(scales, lengths)


def _to_top_k(flat: AnyArray, share: float) -> ArrayRecord:
    kept = max(1, math.ceil(share * flat.size))
    largest = np.argpartition(np.abs(flat), flat.size - kept)[flat.size - kept :]
    indices = np.sort(largest).astype(np.int64)

    return ArrayRecord(
        {"indices": Array(indices), "values": Array(flat[indices].astype(np.float32))}
    )


def _from_top_k(indices: AnyArray, values: AnyArray, numbers: int) -> AnyArray:
    _check("indices", indices, np.int64, indices.size)
    _check("values", values, np.float32, indices.size)
    if indices.size and (indices[0] < 0 or indices[-1] >= numbers or (np.diff(indices) <= 0).any()):
        raise WireError(f"{RECORD}: indices must grow from 0 to below {numbers}.")
    if not np.isfinite(values).all():
        raise WireError(f"{RECORD}: a value is NaN or Inf.")

    flat = np.zeros(numbers, np.float32)
    flat[indices] = values

    return flat


def _check(key: str, found: AnyArray, dtype: type[np.generic], size: int) -> None:
    if found.dtype != dtype or found.shape != (size,):
        raise WireError(
            f"{RECORD}: {key} is {found.dtype} {list(found.shape)}, need {np.dtype(dtype)} "
            f"[{size}] for the arrays that were sent."
        )
