"""One NPZ file of arrays -> prepared directory: sets whose modalities are computed or cut already.

The file, read without unpickling, has an array for each modality, ``[samples, ...]``; ``y``, the
class of each sample; ``split``, "train", "val" or "test"; and may have ``group``, what a sample
comes from: person, device, block. A group that is -1 or empty is unknown, and one of its own.
Further arrays called ``y_...`` are other labels of the same samples; arrays with one axis, or of
another length than ``y``, are no modalities. What an array is follows from its shape:

===================  =======  ====================
one sample           kind     stored
===================  =======  ====================
[features]           vector   [features]
[time, channels]     series   [channels, time]
[height, width]      image    [1, height, width] where it is uint8, else it is a series
[height, width, 1]   image    [1, height, width]
[height, width, 3]   image    [3, height, width]
===================  =======  ====================

uint8 images and float16 stay as they are; everything else is stored as float32. All are
normalised by what the train split measures. A sample whose values of a modality are all NaN
lacks it; one with other values that are not finite cannot be used: it is counted against
``max_bad`` and listed in ``excluded.csv``. Nothing is filled in.
"""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.signature import true_reason
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import MEASURED, Exclusion, Plan, Planned, Stream, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from fedcmi_flwr.data.prepared import check_modality_names
from fedcmi_flwr.types import Modality

NAME = "npz"
LABEL = "y"
OWN_ARRAYS = (LABEL, "split", "group")
"""Arrays that are no modality, beside further labels."""
SPLITS = ("train", "val", "test")
COLOURS = (1, 3)
"""Channels that an image may have."""
UNKNOWN = ("-1", "")
"""Values of ``group`` that say nothing."""
LACKS_ALL = "has none of the modalities."

Arrays = Mapping[str, NDArray[Any]]


def read_arrays(file: Path) -> Arrays:
    """Read all arrays of an NPZ file.

    Parameters
    ----------
    file
        As :func:`numpy.savez` writes it, without objects.

    Returns
    -------
    Name -> array.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    PrepError
        It is something else, cut off, or holds objects, which would have to be unpickled.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not found, expected an NPZ file.")

    if not zipfile.is_zipfile(file):
        whole = "not a whole NPZ file, which numpy.savez writes; write it again."
        # An NPZ file is a ZIP archive, and nothing to unpack
        cut_off = file.read_bytes()[:2] == b"PK"
        reason = whole if cut_off else true_reason(file, whole)
        raise PrepError(f"{file}: {reason}")

    arrays, name = {}, ""
    try:
        with np.load(file, allow_pickle=False) as content:
            for name in content.files:
                arrays[name] = content[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise PrepError(
            f"{file}: array {name!r} is not readable without unpickling ({error}); write it again."
        ) from error

    return arrays


def prepare(
    file: Path,
    out: Path,
    *,
    modalities: Sequence[Modality] | None = None,
    label: str = LABEL,
    classes: Sequence[str] | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare the arrays of an NPZ file; the same file and settings give the same bytes.

    Parameters
    ----------
    file
        The NPZ file.
    out
        The prepared directory to make.
    modalities
        Names of arrays, in stored order; None: all, in the order of the file.
    label
        Name of the array that holds the classes.
    classes
        Their names, in the order of the sorted labels; None: the labels themselves.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and
        who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    PrepError
        Arrays that cannot be used, or something else at ``out``.
    """
    arrays = read_arrays(file)
    names = _chosen(file, arrays, modalities)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    settings = {
        "modalities": names,
        "label": label,
        "classes": None if classes is None else list(classes),
        "npz_sha256": digest,
    }

    def make_plan() -> Plan:
        splits, place = _splits(file, arrays), Place(str(file.resolve()), digest)
        labels, labelled = _labels(file, arrays, label, splits, classes)
        streams = [_stream(name, arrays[name], f"{file}: array {name!r}", place) for name in names]
        samples = _samples(file, arrays, names, labels, splits)
        kept = [sample for sample in samples if sample.jobs]
        empty = [
            Exclusion(each.id, each.split, file.name, LACKS_ALL)
            for each in samples
            if not each.jobs
        ]

        return Plan(labelled, streams, kept, empty, tool_versions("numpy"))

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _chosen(file: Path, arrays: Arrays, wanted: Sequence[Modality] | None) -> list[Modality]:
    """Return the modalities' names; what is no modality cannot be wanted."""
    count = len(_column(file, arrays, LABEL, None))
    own = [name for name in arrays if name not in OWN_ARRAYS and not name.startswith(f"{LABEL}_")]
    usable = [name for name in own if arrays[name].ndim > 1 and len(arrays[name]) == count]
    for name in wanted or ():
        if name in own and name not in usable:
            shape = list(arrays[name].shape)
            raise PrepError(
                f"{file}: array {name!r} is {shape}, a modality must be [{count}, ...] as "
                f"{LABEL!r} is."
            )

        if name not in own or list(wanted or ()).count(name) > 1:
            raise PrepError(
                f"{file}: {name!r} is no modality or named twice; there are {', '.join(usable)}."
            )

    names = list(usable if wanted is None else wanted)
    if not names:
        raise PrepError(
            f"{file}: no modality among its arrays, {', '.join(arrays)}; one must be [{count}, "
            "...]."
        )

    check_modality_names(names)

    return names


def _column(file: Path, arrays: Arrays, name: str, like: NDArray[Any] | None) -> NDArray[Any]:
    """Return an array with one value for each sample."""
    if name not in arrays:
        raise PrepError(f"{file}: array {name!r} is missing, found {', '.join(arrays)}.")

    array = arrays[name]
    if (
        array.ndim != 1
        or array.dtype.kind not in "iuU"
        or (like is not None and len(array) != len(like))
    ):
        expected = "" if like is None else f" of {len(like)}"
        raise PrepError(
            f"{file}: array {name!r} is {array.dtype} {list(array.shape)}, expected integers or "
            f"words{expected}, one a sample."
        )

    return array


def _splits(file: Path, arrays: Arrays) -> NDArray[Any]:
    """Return the split of each sample; a federation needs train and test."""
    splits = _column(file, arrays, "split", arrays[LABEL])
    unknown = sorted({str(split) for split in splits} - {*SPLITS})
    absent = [split for split in ("train", "test") if split not in splits]
    if unknown or absent:
        found = (
            f"{unknown[0]!r} is not one of {', '.join(SPLITS)}"
            if unknown
            else f"no sample is {absent[0]!r}"
        )
        raise PrepError(f"{file}: array 'split': {found}.")

    return splits


def _labels(
    file: Path, arrays: Arrays, name: str, splits: NDArray[Any], wanted: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class index of each sample, and the classes' names."""
    array = _column(file, arrays, name, arrays[LABEL])
    values, labels = np.unique(array, return_inverse=True)
    trained = set(labels[splits == "train"].tolist())
    untrained = [str(value) for index, value in enumerate(values) if index not in trained]
    if untrained:
        raise PrepError(
            f"{file}: array {name!r}: no sample of the train split is {untrained[0]!r}."
        )
    if len(values) < 2:
        raise PrepError(
            f"{file}: array {name!r}: all labels are {values.tolist()}; there must be two or more "
            "classes."
        )

    classes = tuple(wanted) if wanted is not None else tuple(str(value) for value in values)
    if len(set(classes)) != len(values):
        raise PrepError(
            f"classes {list(classes)}: must be {len(values)} different names, of {values.tolist()}."
        )

    return labels.astype(np.int64), classes


def _stream(name: Modality, array: NDArray[Any], where: str, place: "Place") -> Stream:
    """Say what an array's samples are, by their shape and dtype, and how they are stored."""
    shape, dtype = array.shape[1:], array.dtype
    if dtype.kind not in "fiub" or 0 in array.shape:
        raise PrepError(f"{where} is {dtype} {list(array.shape)}, expected numbers.")

    stored = (
        dtype.name
        if dtype == np.float16 or (dtype == np.uint8 and _is_image(shape, dtype))
        else "float32"
    )
    decode: Any = functools.partial(_row, place, name)
    recipe: dict[str, Any] = {"maker": "array", "shape": list(shape), "dtype": dtype.name}
    if len(shape) == 1:
        recipe = {"maker": "vector", "features": shape[0], "columns": None}
        return Stream(name, "vector", shape, stored, decode, recipe, MEASURED)

    if _is_image(shape, dtype):
        height, width, channels = *shape[:2], (shape[2] if len(shape) == 3 else 1)
        if stored == "uint8" and channels == 3 and height == width:
            recipe = {"maker": "photo", "size": height}

        return Stream(name, "image", (channels, height, width), stored, decode, recipe, MEASURED)

    if len(shape) == 2:
        recipe = {"maker": "series", "channels": shape[1], "points": shape[0]}
        return Stream(name, "series", shape[::-1], stored, decode, recipe, MEASURED)

    raise PrepError(
        f"{where} is {dtype} {list(array.shape)}; one sample must be [features], [time, channels] "
        "or [height, width, 1 or 3]."
    )


def _is_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return (len(shape) == 3 and shape[2] in COLOURS) or (len(shape) == 2 and dtype == np.uint8)


def channels_first(sample: NDArray[Any]) -> NDArray[Any]:
    """Return a sample of an array with the axes of a stored one.

    Channels come first, a grey image gets one.
    """
    if sample.ndim == 2 and sample.dtype == np.uint8:
        return sample[np.newaxis]
    return np.moveaxis(sample, -1, 0)


class Place(NamedTuple):
    """Where arrays are read again, by whoever makes rows of them."""

    file: str
    digest: str
    """Of its contents, so that a file that was written anew is read anew."""


@functools.lru_cache(maxsize=16)
def _array(place: Place, name: str) -> NDArray[Any]:
    """Read an array once in each process."""
    with np.load(place.file, allow_pickle=False) as content:
        array: NDArray[Any] = content[name]

    return array


def _row(place: Place, name: Modality, row: int) -> NDArray[Any]:
    """Return a sample as it is stored; UnreadableFileError where values of it are missing."""
    sample = _array(place, name)[row]
    finite = np.isfinite(sample)
    if not finite.all():
        reason = (
            f"array {name!r}, row {row}: {(~finite).sum()} of {sample.size} values are not finite."
        )
        raise UnreadableFileError(Path(place.file), reason)

    return channels_first(sample)


def _samples(
    file: Path,
    arrays: Arrays,
    names: Sequence[Modality],
    labels: NDArray[np.int64],
    splits: NDArray[Any],
) -> list[Planned]:
    """Return every sample of the file; one that lacks everything has no jobs."""
    lacking = {name: _all_missing(arrays[name]) for name in names}
    groups = (
        _column(file, arrays, "group", labels) if "group" in arrays else np.full(len(labels), -1)
    )
    samples = []
    for row, (label, split, group) in enumerate(zip(labels, splits, groups, strict=True)):
        jobs = {name: row for name in names if not lacking[name][row]}
        sources = {name: f"{file.name}#{name}[{row}]" for name in jobs}
        belongs = f"row {row}" if str(group) in UNKNOWN else str(group)
        samples.append(Planned(str(row), int(label), belongs, str(split), jobs, sources))

    return samples


def _all_missing(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which samples have no value: all are NaN."""
    if array.dtype.kind != "f":
        return np.zeros(len(array), bool)
    return np.asarray(np.isnan(array).reshape(len(array), -1).all(axis=1))
