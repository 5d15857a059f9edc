"""What is in a prepared directory, in numbers.

Shown after every preparation and by ``fedcmi inspect``.
"""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import filesize
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_prep.inspection.suspects import Suspects, find_suspects
from data_prep.pipeline.plan import Exclusion
from data_prep.pipeline.reasons import Reason, by_reason, named, placed
from data_prep.pipeline.tables import EXCLUDED, NOTED
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import DatasetSpec, array_path, read_recipes, read_spec, samples_path
from fedcmi_flwr.data.table import read_columns
from fedcmi_flwr.types import Modality

_ORDER = {"train": 0, "val": 1, "test": 2}
"""Splits as they are shown; others come after them."""


@dataclass(frozen=True)
class Overlap:
    """Groups that stand in two splits: may be wanted, and is to be known."""

    splits: tuple[str, str]
    groups: Sequence[str]
    """Sorted."""


@dataclass(frozen=True)
class Summary:
    """The contents of a prepared directory, counted."""

    spec: DatasetSpec
    counts: Mapping[str, NDArray[np.int64]]
    """Split -> [classes], samples."""
    missing: Mapping[str, Mapping[Modality, int]]
    """Split -> modality -> samples that lack it."""
    groups: Mapping[str, int]
    """Split -> different groups."""
    overlaps: Sequence[Overlap]
    """Of every two splits that share a group."""
    excluded: Sequence[Reason]
    """Most frequent reason first."""
    stored: Mapping[Modality, int]
    """Bytes of the arrays of all splits."""
    suspects: Sequence[Suspects] = ()
    """Stored samples that are likely to be mistakes."""


def summarise(directory: Path) -> Summary:
    """Count what is in a prepared directory.

    Parameters
    ----------
    directory
        Any prepared directory.

    Returns
    -------
    The counts.

    Raises
    ------
    FileNotFoundError
        It is no prepared directory.
    SchemaError
        Its files contradict its description.
    """
    spec = read_spec(directory)
    splits = sorted(spec.splits, key=_place)
    counts, missing, groups, stored_samples = {}, {}, {}, {}
    for split in splits:
        samples = stored_samples[split] = load_split(directory, split)
        counts[split] = np.bincount(samples.labels, minlength=len(spec.classes))
        lacking = (~samples.has).sum(axis=0).tolist()
        missing[split] = dict(zip(spec.modality_names, lacking, strict=True))
        groups[split] = set(read_columns(samples_path(directory, split))["group"])

    stored = {
        name: sum(array_path(directory, split, name).stat().st_size for split in splits)
        for name in spec.modality_names
    }
    overlaps = [
        Overlap((first, second), sorted(groups[first] & groups[second]))
        for first, second in itertools.combinations(splits, 2)
        if groups[first] & groups[second]
    ]
    sizes = {split: len(members) for split, members in groups.items()}
    suspects = find_suspects(stored_samples, len(spec.classes), read_recipes(directory))
    suspects += _noted(directory, spec)

    return Summary(spec, counts, missing, sizes, overlaps, _excluded(directory), stored, suspects)


def _place(split: str) -> tuple[int, str]:
    """Return where a split stands among others."""
    return _ORDER.get(split, len(_ORDER)), split


def _excluded(directory: Path) -> list[Reason]:
    path = directory / EXCLUDED
    if not path.is_file():
        return []

    with path.open(encoding="utf-8", newline="") as file:
        return by_reason(Exclusion(**row) for row in csv.DictReader(file))


def _noted(directory: Path, spec: DatasetSpec) -> list[Suspects]:
    """Return the samples with a wrong length, which was seen when they were made."""
    path = directory / NOTED
    if not path.is_file():
        return []

    found: dict[tuple[Modality, str], dict[str, NDArray[np.int64]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: _place(row["split"])):
            by_split = found.setdefault((row["modality"], row["note"]), {})
            counts = by_split.setdefault(row["split"], np.zeros(len(spec.classes), np.int64))
            counts[int(row["label"])] += 1

    return [Suspects(name, note, counts) for (name, note), counts in sorted(found.items())]


def render(summary: Summary) -> RenderableType:
    """Return the summary for a terminal."""
    return Group(
        _modalities(summary), _splits(summary), *(Text(line) for line in _remarks(summary))
    )


def _modalities(summary: Summary) -> Table:
    table = Table(title=Text(f"{summary.spec.name}: what a sample is"))
    for column in ("modality", "kind", "shape", "dtype", "size"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")

    for modality in summary.spec.modalities:
        shape = " x ".join(str(side) for side in modality.shape)
        size = filesize.decimal(summary.stored[modality.name])
        table.add_row(Text(modality.name), modality.kind, shape, modality.dtype, size)

    return table


def _splits(summary: Summary) -> Table:
    table = Table(title="samples")
    for column in ("", *summary.counts):
        table.add_column(Text(column), justify="right" if column else "left", overflow="fold")

    for row in _counted(summary):
        table.add_row(*(Text(cell) for cell in row))

    return table


def _counted(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Yield what is counted, with its number in each split."""
    splits = list(summary.counts)
    yield ("samples", *(str(int(summary.counts[split].sum())) for split in splits))
    for number, name in enumerate(summary.spec.classes):
        yield (name, *(str(int(summary.counts[split][number])) for split in splits))

    for modality in summary.spec.modality_names:
        if any(summary.missing[split][modality] for split in splits):
            yield (
                f"without {modality}",
                *(str(summary.missing[split][modality]) for split in splits),
            )

    yield ("groups", *(str(summary.groups[split]) for split in splits))


def _remarks(summary: Summary) -> Iterator[str]:
    if len(summary.counts) > 1 and not summary.overlaps:
        yield "no group is in two splits"

    for overlap in summary.overlaps:
        first, second = overlap.splits
        yield f"{named(overlap.groups, 'group')} in both {first} and {second}"

    if not summary.excluded:
        yield "nothing was excluded"

    for excluded in summary.excluded:
        where = placed(excluded.places)
        yield (
            f"excluded: {named(excluded.ids, 'sample')}: "
            f"{excluded.text}{f' ({where})' if where else ''}"
        )

    for each in summary.suspects:
        where = placed({split: _by_name(summary, counts) for split, counts in each.counts.items()})
        yield f"look at {each.total} of {each.modality} that are stored: {each.flaw} ({where})"


def _by_name(summary: Summary, counts: NDArray[np.int64]) -> dict[str, int]:
    """Return the classes of which there are some."""
    named_counts = zip(summary.spec.classes, counts.tolist(), strict=True)
    return {name: count for name, count in named_counts if count}
