"""The tables of a prepared directory: labels and samples of each split, and what was left out."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np

from data_prep.pipeline.plan import Exclusion, Planned
from fedcmi_flwr.data.schema import SAMPLE_COLUMNS, labels_path, samples_path
from fedcmi_flwr.types import Modality

EXCLUDED = "excluded.csv"
"""What of the raw archive is not stored, and why."""
NOTED = "noted.csv"
"""What is to be known of samples that are stored: wrong lengths."""
NOTED_COLUMNS = ("id", "split", "label", "modality", "note")


def write_samples(
    directory: Path, split: str, samples: Sequence[Planned], modalities: Sequence[Modality]
) -> None:
    """Write ``labels.npy`` and ``samples.csv`` of a split.

    Parameters
    ----------
    directory
        Where the prepared directory is built; the split's own directory is there.
    split
        Name of the split.
    samples
        In the order of the arrays.
    modalities
        All that are stored, in stored order.
    """
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    np.save(labels_path(directory, split), labels, allow_pickle=False)

    with samples_path(directory, split).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(SAMPLE_COLUMNS)
        for sample in samples:
            has = [name for name in modalities if name in sample.jobs]
            sources = ";".join(sample.sources[name] for name in has)
            table.writerow((sample.id, sample.label, sample.group, "+".join(has), sources))


def write_excluded(directory: Path, excluded: Sequence[Exclusion]) -> None:
    """List what is not stored in ``excluded.csv``; no file when nothing was left out.

    Parameters
    ----------
    directory
        Where the prepared directory is built.
    excluded
        In the order to be listed.
    """
    if not excluded:
        return
    with (directory / EXCLUDED).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(column.name for column in fields(Exclusion))
        table.writerows(astuple(entry) for entry in excluded)


def write_noted(
    directory: Path, samples: Sequence[Planned], notes: Sequence[tuple[int, Modality, str]]
) -> None:
    """List in ``noted.csv`` what is to be known of stored samples; no file when there is nothing.

    Parameters
    ----------
    directory
        Where the prepared directory is built.
    samples
        All of the plan.
    notes
        Number of the sample, modality and note, in the order to be listed.
    """
    if not notes:
        return
    with (directory / NOTED).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(NOTED_COLUMNS)
        for row, modality, text in notes:
            table.writerow(
                (samples[row].id, samples[row].split, samples[row].label, modality, text)
            )
