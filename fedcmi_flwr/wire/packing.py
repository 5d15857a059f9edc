"""Parameter groups as flat arrays.

One per group and dtype, with the layout that cuts them up again.

A deployed round's time follows the number of arrays more than their bytes, so a group travels as
one array per dtype. Keys and layout name the dtype that an array has on both machines; float32 may
travel as float16, which the flat array's own dtype shows.

A node may speak "plain" instead, Flower's own habit: one array per tensor, under the names of
the model's state_dict. Then ``arrays.to_torch_state_dict()`` loads it, and
``ArrayRecord(model.state_dict())`` answers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedcmi_flwr.types import AnyArray

FLAT, PLAIN = "flat", "plain"
"""How a node's arrays are packed."""


class WireError(ValueError):
    """A message that does not keep to the codec; the text says which record and key."""


def pack(
    arrays: Mapping[str, AnyArray], groups: Mapping[str, Sequence[str]], wire_dtype: str = "float32"
) -> tuple[ArrayRecord, ConfigRecord]:
    """Pack parameter groups into one flat array per group and dtype.

    Parameters
    ----------
    arrays
        Parameter or buffer name -> array.
    groups
        Group -> names of its arrays.
    wire_dtype
        What float32 arrays travel in: "float32", or "float16", rounded to nearest.

    Returns
    -------
    The ``arrays`` and ``layout`` records.

    Raises
    ------
    WireError
        A name of a group that ``arrays`` lacks, or a number that would become infinite in
        ``wire_dtype``.
    """
    packed, layout = ArrayRecord(), ConfigRecord()
    for group, names in groups.items():
        absent = [name for name in names if name not in arrays]
        if absent:
            raise WireError(
                f"group {group!r}: array {absent[0]!r} is missing ({len(absent)} missing in all)."
            )

        entries = [[name, str(arrays[name].dtype), list(arrays[name].shape)] for name in names]
        layout[group] = json.dumps(entries)

        for dtype in sorted({str(arrays[name].dtype) for name in names}):
            chosen = {
                name: arrays[name].ravel() for name in names if str(arrays[name].dtype) == dtype
            }
            if dtype == "float32" and wire_dtype == "float16":
                chosen = {name: _half(name, flat) for name, flat in chosen.items()}

            packed[f"{group}/{dtype}"] = Array(np.concatenate(list(chosen.values())))

    return packed, layout


def unpack(
    packed: ArrayRecord, layout: ConfigRecord
) -> tuple[dict[str, AnyArray], dict[str, tuple[str, ...]]]:
    """Reverse :func:`pack`.

    Parameters
    ----------
    packed
        The ``arrays`` record.
    layout
        The ``layout`` record.

    Returns
    -------
    Name -> array, and group -> names.

    Raises
    ------
    WireError
        A layout that is not the codec's, or flat arrays that do not fit it.
    """
    arrays: dict[str, AnyArray] = {}
    groups: dict[str, tuple[str, ...]] = {}
    expected: set[str] = set()
    for group, text in layout.items():
        entries = _layout_entries(group, text)
        groups[group] = tuple(name for name, _, _ in entries)
        for dtype in sorted({dtype for _, dtype, _ in entries}):
            key = f"{group}/{dtype}"
            expected.add(key)
            arrays |= _cut(
                packed, key, [(name, shape) for name, found, shape in entries if found == dtype]
            )

    unexpected = sorted(set(packed) - expected)
    if unexpected:
        raise WireError(
            f"arrays: unexpected {unexpected}, the layout speaks of {sorted(expected)}."
        )

    return {name: arrays[name] for names in groups.values() for name in names}, groups


def pack_plain(arrays: Mapping[str, AnyArray], groups: Mapping[str, Sequence[str]]) -> ArrayRecord:
    """Return the arrays of these groups one by one, under their own names.

    WireError where one is missing.
    """
    names = [name for members in groups.values() for name in members]
    absent = [name for name in names if name not in arrays]
    if absent:
        raise WireError(f"array {absent[0]!r} is missing ({len(absent)} missing in all).")

    return ArrayRecord({name: Array(np.asarray(arrays[name])) for name in names})


def unpack_plain(packed: ArrayRecord) -> dict[str, AnyArray]:
    """Reverse :func:`pack_plain`; WireError where an array cannot be read."""
    return {name: decode(packed[name], name) for name in packed}


def layout_groups(layout: ConfigRecord) -> dict[str, tuple[str, ...]]:
    """Return group -> names of a ``layout`` record; WireError if it is not the codec's."""
    groups: dict[str, tuple[str, ...]] = {}
    for group, text in layout.items():
        groups[group] = tuple(name for name, _, _ in _layout_entries(group, text))

    return groups


def _layout_entries(group: str, text: Any) -> list[tuple[str, str, tuple[int, ...]]]:  # noqa: ANN401
    """Return the [name, dtype, shape] of a group's arrays, whatever another machine wrote there."""
    try:
        entries = [
            (str(name), str(dtype), tuple(map(int, shape)))
            for name, dtype, shape in json.loads(text)
        ]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(
            f"layout of group {group!r} is not a list of [name, dtype, shape]: {error}."
        ) from error

    if any(size < 0 for _, _, shape in entries for size in shape):
        raise WireError(f"layout of group {group!r}: a shape has a negative size.")

    return entries


def _half(name: str, flat: AnyArray) -> AnyArray:
    """Return float32 numbers as float16.

    NaN and Inf, which no receiver takes, stay what they are.
    """
    with np.errstate(over="ignore"):
        half = flat.astype(np.float16)

    if (np.isinf(half) & np.isfinite(flat)).any():
        raise WireError(
            f"array {name!r} holds a number of size {np.abs(flat[np.isfinite(flat)]).max():.4g}, "
            f"but float16 ends at {np.finfo(np.float16).max:.0f}; set wire-dtype = 'float32'."
        )

    return half


def _cut(
    packed: ArrayRecord, key: str, entries: list[tuple[str, tuple[int, ...]]]
) -> dict[str, AnyArray]:
    """Return the arrays [name, shape] of one flat array.

    Raise WireError where it does not hold just these.
    """
    if key not in packed:
        raise WireError(
            f"arrays: {key!r} is missing, where the layout has {entries[0][0]!r}; found "
            f"{sorted(packed)}."
        )

    flat = decode(packed[key], key)
    if key.endswith("/float32") and flat.dtype == np.float16:
        flat = flat.astype(np.float32)

    sizes = [math.prod(shape) for _, shape in entries]
    if flat.ndim != 1 or flat.size != sum(sizes) or str(flat.dtype) != key.rpartition("/")[2]:
        name, shape = entries[0]
        raise WireError(
            f"arrays: {key!r} is {flat.dtype} of shape {list(flat.shape)}, the layout needs "
            f"[{sum(sizes)}] of {key.rpartition('/')[2]}: {name!r} {list(shape)} and "
            f"{len(entries) - 1} more. train_reply(message, model.state_dict(), num_examples) "
            "packs them."
        )

    pieces = np.split(flat, np.cumsum(sizes)[:-1])
    try:
        return {
            name: piece.reshape(shape) for (name, shape), piece in zip(entries, pieces, strict=True)
        }
    except (
        ValueError,
        OverflowError,
    ) as error:
        # Of no numbers, but of more or larger axes than an array may have
        raise WireError(
            f"arrays: {key!r} has a shape in its layout that no array can have: {error}."
        ) from error


def decode(array: Array, key: str) -> AnyArray:
    """Read an array of another machine.

    WireError whatever is wrong with its bytes, which is that message's fault.
    """
    try:
        flat = array.numpy()
    except Exception as error:
        # NumPy's reader raises anything from BadZipFile to MemoryError on a bad header
        raise WireError(f"arrays: {key!r} does not hold an array: {error!r}.") from error

    if not isinstance(flat, np.ndarray):
        raise WireError(f"arrays: {key!r} holds a {type(flat).__name__}, not an array.")

    return flat
