"""The one place that writes prepared directories: once, completely, or not at all.

A directory is built under a hidden name beside its final one and renamed when it is complete, under a lock
that ends with the process that holds it. So a directory at its final name is finished, whatever was killed
when.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from fedcmi_flwr.data.schema import (
    SAMPLE_COLUMNS,
    DatasetSpec,
    SchemaError,
    array_path,
    labels_path,
    read_spec,
    samples_path,
    write_spec,
)
from fedcmi_flwr.machine.atomic_files import new_directory
from fedcmi_flwr.machine.locks import LockedError, locked
from fedcmi_flwr.types import Modality


@dataclass(frozen=True)
class Exclusion:
    """Something of the raw archive that is not stored, and why; a row of ``excluded.csv``."""

    id: str
    """Of the sample."""
    split: str
    """Where it would have been; empty where that was not decided yet."""
    source: str
    """File or files."""
    reason: str


@dataclass(frozen=True)
class Row:
    """One stored sample, for the sample table."""

    id: str
    label: int
    group: str
    sources: Mapping[Modality, str]
    """Where each modality that the sample has came from, in stored order."""


Settings = Mapping[str, Any]
"""Every setting of a preparation, seed and modalities included; JSON values."""

EXCLUDED = "excluded.csv"
"""What of the raw archive is not stored, and why."""
LOCK_TIMEOUT = 1800.0
"""Seconds to wait for another process that prepares the same directory."""


@dataclass(frozen=True)
class Samples:
    """One split, ready to be stored."""

    ids: Sequence[str]
    """Unique within the split."""
    labels: NDArray[np.int64]
    """[samples], class indices."""
    groups: Sequence[str]
    """What a natural federation deals by: actor, speaker, video, line."""
    sources: Mapping[Modality, Sequence[str]]
    """Where each modality of each sample came from: file in the raw archive, and place inside the file."""
    arrays: Mapping[Modality, NDArray[Any]]
    """[samples, ...] of each modality to store, in stored order; zeros where a sample lacks it."""
    present: Mapping[Modality, NDArray[np.bool_]] = field(default_factory=dict)
    """[samples] of each modality that some samples lack; a modality not named here is always present."""


def write_prepared(out: Path, name: str, settings: Settings, build: Callable[[Path], DatasetSpec]) -> Path:
    """Make a prepared directory, unless it is there already with the same settings.

    Several processes may ask for the same directory at once: one builds, the others wait for it. The raw
    data are not compared: to prepare changed raw data, remove the directory first.

    Parameters
    ----------
    out
        The final path; its parents are made as needed.
    name
        The data set's name, which an existing directory must have too.
    settings
        What an existing directory must have been made with.
    build
        Writes the splits below the directory it is given, and returns what ``dataset.json`` will say.

    Returns
    -------
    The finished directory, absolute.

    Raises
    ------
    PrepError
        At ``out`` there is something else: nothing is touched.
    """
    out = out.resolve()
    if _is_finished(out, name, settings):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f"{out.name}.lock")
    try:
        with locked(lock, LOCK_TIMEOUT):
            if not _is_finished(out, name, settings):
                _build(out, build)
    except LockedError as error:
        raise PrepError(
            f"{out}: another process has been preparing it for more than {LOCK_TIMEOUT:.0f} s ({lock} is held). Wait "
            "for it, or end it."
        ) from error
    return out


def _is_finished(out: Path, name: str, settings: Settings) -> bool:
    """Tell a directory that is finished from one to be made; anything else at ``out`` is an error."""
    advice = "Remove it, or choose another output directory."
    if not out.exists():
        return False
    if not out.is_dir():
        raise PrepError(f"{out}: is a file, expected a directory or nothing. {advice}")
    if not (out / "dataset.json").is_file():
        if any(out.iterdir()):
            raise PrepError(f"{out}: is not empty and no prepared directory (it has no dataset.json). {advice}")
        return False
    try:
        spec = read_spec(out)
    except SchemaError as error:
        raise PrepError(f"{error} {advice}") from error
    found = {"name": spec.name, **spec.settings}
    asked = {"name": name, **json.loads(json.dumps(dict(settings)))}
    differing = [key for key in sorted(found.keys() | asked.keys()) if found.get(key) != asked.get(key)]
    if differing:
        what = "; ".join(f"{key} = {found.get(key)!r}, asked for {asked.get(key)!r}" for key in differing)
        raise PrepError(f"{out}: was prepared with other settings: {what}. {advice}")
    return True


def _build(out: Path, build: Callable[[Path], DatasetSpec]) -> None:
    """Build beside ``out`` and rename; what is found there is of a dead run, since the lock is ours."""
    with new_directory(out) as partial:
        write_spec(partial, build(partial))


def write_split(directory: Path, split: str, samples: Samples) -> None:
    """Write the arrays, labels and sample table of one split.

    Parameters
    ----------
    directory
        The directory that ``build`` was given.
    split
        Name of the split.
    samples
        What to store.

    Raises
    ------
    PrepError
        Two samples with one id, columns of different lengths, or values that are not finite.
    """
    _check(split, samples)
    (directory / split).mkdir(parents=True, exist_ok=True)
    for name, array in samples.arrays.items():
        np.save(array_path(directory, split, name), array, allow_pickle=False)
    table = []
    for row, (sample, label, group) in enumerate(zip(samples.ids, samples.labels, samples.groups, strict=True)):
        names = [m for m in samples.arrays if m not in samples.present or samples.present[m][row]]
        table.append(Row(sample, int(label), group, {m: samples.sources[m][row] for m in names}))
    write_table(directory, split, table)


def write_table(directory: Path, split: str, rows: Sequence[Row]) -> None:
    """Write ``labels.npy`` and ``samples.csv`` of a split.

    Parameters
    ----------
    directory
        The directory that ``build`` was given; the split's own directory is there.
    split
        Name of the split.
    rows
        The samples in the order of the arrays.
    """
    labels = np.array([row.label for row in rows], dtype=np.int64)
    np.save(labels_path(directory, split), labels, allow_pickle=False)
    with samples_path(directory, split).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(SAMPLE_COLUMNS)
        for row in rows:
            table.writerow((row.id, row.label, row.group, "+".join(row.sources), ";".join(row.sources.values())))


def _check(split: str, samples: Samples) -> None:
    count = len(samples.ids)
    columns: dict[str, Any] = {"labels": samples.labels, "groups": samples.groups}
    columns |= {f"array of {name}": array for name, array in samples.arrays.items()}
    columns |= {f"sources of {name}": samples.sources[name] for name in samples.arrays}
    columns |= {f"presence of {name}": mask for name, mask in samples.present.items()}
    for what, column in columns.items():
        if len(column) != count:
            raise PrepError(f"split {split!r}: {count} ids but {len(column)} rows in the {what}.")
    if len(set(samples.ids)) != count:
        raise PrepError(f"split {split!r}: {count} samples but only {len(set(samples.ids))} different ids.")
    for name, array in samples.arrays.items():
        finite = np.isfinite(array).reshape(count, -1).all(axis=1)
        if not finite.all():
            first = samples.ids[int(np.argmin(finite))]
            raise PrepError(f"split {split!r}: {name} of sample {first!r} is not finite as {array.dtype}.")


def check_unreadable(bad: Sequence[Exclusion], max_bad: int) -> None:
    """Refuse more unusable source files than allowed.

    Parameters
    ----------
    bad
        What was left out because a source file cannot be used.
    max_bad
        How many are allowed.

    Raises
    ------
    PrepError
        There are more than ``max_bad``; the message names them.
    """
    if len(bad) > max_bad:
        shown = "\n".join(f"  {entry.source}: {entry.reason}" for entry in bad[:20])
        more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise PrepError(
            f"{len(bad)} source files cannot be used, max_bad = {max_bad} allowed; "
            f"fetch them again, or raise max_bad to go on without them:\n{shown}{more}"
        )


def write_excluded(directory: Path, excluded: Sequence[Exclusion]) -> None:
    """List what is not stored in ``excluded.csv``; no file when nothing was left out.

    Parameters
    ----------
    directory
        The directory that ``build`` was given.
    excluded
        In the order to be listed.
    """
    if excluded:
        with (directory / EXCLUDED).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(item.name for item in fields(Exclusion))
            table.writerows(astuple(entry) for entry in excluded)


def select_modalities(available: Sequence[Modality], wanted: Sequence[Modality] | None) -> tuple[Modality, ...]:
    """Check which modalities to store, for a device that owns only some.

    Parameters
    ----------
    available
        What the data set has, in stored order.
    wanted
        What to store; None is all.

    Returns
    -------
    The wanted ones in stored order.

    Raises
    ------
    PrepError
        Nothing wanted, or something that the data set does not have.

    Examples
    --------
    >>> select_modalities(("audio", "visual"), ["visual"])
    ('visual',)
    """
    if wanted is None:
        return tuple(available)
    unknown = [name for name in wanted if name not in available]
    if unknown or not wanted:
        raise PrepError(f"modalities = {list(wanted)}: must be one or more of {', '.join(available)}.")
    return tuple(name for name in available if name in wanted)


def tool_versions(*distributions: str) -> dict[str, str]:
    """Return the installed versions of what decodes and transforms the media.

    Parameters
    ----------
    *distributions
        Names as in the package index ("scikit-learn", not "sklearn").

    Returns
    -------
    Name -> version.
    """
    return {name: version(name) for name in distributions}
