"""What a model says about samples, put into words and numbers for whoever asked."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.inference.predictor import InputError, Predictor
from fedcmi_flwr.types import Modality

ROWS = 256
"""Samples of a prepared directory that are in memory at a time."""


@dataclass(frozen=True)
class Chunk:
    """Some samples to predict."""

    names: Sequence[str]
    inputs: Mapping[Modality, NDArray[Any]]
    """[samples, *shape] in stored units."""
    present: Mapping[Modality, NDArray[np.bool_]] = field(default_factory=dict)
    """[samples] of each modality that some of them lack."""
    labels: NDArray[np.int64] | None = None
    """[samples], where they are known."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one sample."""

    sample: str
    modalities: tuple[Modality, ...]
    """What the sample was seen by."""
    probabilities: Mapping[str, float]
    """Class -> probability, the most probable first."""
    calibrated: bool
    """Whether the probabilities were calibrated on validation data."""
    label: str | None = None
    """The true class, where it is known."""

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))

    def line(self) -> str:
        """Return one line for a reader."""
        (first, confidence), (second, rest) = list(self.probabilities.items())[:2]
        doubt = "" if self.calibrated else ", uncalibrated"
        seen = "+".join(self.modalities)

        return (
            f"{first} ({confidence:.1%}{doubt}), then {second} ({rest:.1%}): {self.sample} [{seen}]"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        (first, confidence), (second, rest) = list(self.probabilities.items())[:2]
        known = {} if self.label is None else {"label": self.label}
        return {
            "sample": self.sample,
            "modalities": list(self.modalities),
            "class": first,
            "confidence": confidence,
            "calibrated": self.calibrated,
            "runner_up": second,
            "runner_up_confidence": rest,
            "probabilities": dict(self.probabilities),
            **known,
        }


def predictions(predictor: Predictor, chunks: Iterable[Chunk]) -> Iterator[Prediction]:
    """Predict chunk by chunk.

    Parameters
    ----------
    predictor
        The model.
    chunks
        Samples.

    Yields
    ------
    One prediction for each sample, in order.
    """
    classes = predictor.classes
    for chunk in chunks:
        found = predictor.predict_proba(chunk.inputs, chunk.present)
        for row, (name, values) in enumerate(zip(chunk.names, found, strict=True)):
            order = np.argsort(-values, kind="stable")
            probabilities = {classes[place]: float(values[place]) for place in order}
            seen = tuple(
                m for m in predictor.modalities if m in chunk.inputs and _has(chunk, m, row)
            )
            label = None if chunk.labels is None else classes[chunk.labels[row]]
            yield Prediction(
                name, seen, probabilities, predictor.decisions.of(seen).calibrated, label
            )


def _has(chunk: Chunk, modality: Modality, row: int) -> bool:
    return bool(chunk.present[modality][row]) if modality in chunk.present else True


def accuracy(found: Iterable[Prediction]) -> float:
    """Return the share of labelled predictions that are right; NaN without any."""
    right = [
        prediction.predicted == prediction.label
        for prediction in found
        if prediction.label is not None
    ]
    return sum(right) / len(right) if right else math.nan


def prepared_chunks(predictor: Predictor, directory: Path, split: str) -> Iterator[Chunk]:
    """Read one split of a prepared directory, some samples at a time.

    Parameters
    ----------
    predictor
        The model that is to predict them.
    directory
        Prepared as the model's data were.
    split
        Name of the split.

    Yields
    ------
    The samples that have any of the model's modalities, with those of them that the directory
    stores.

    Raises
    ------
    InputError
        Other classes, other shapes or dtypes, or no modality in common.
    """
    from fedcmi_flwr.data.prepared import load_split
    from fedcmi_flwr.data.schema import read_spec

    spec = read_spec(directory)
    if spec.classes != predictor.classes:
        raise InputError(
            f"{directory}: its classes {list(spec.classes)} are not the model's "
            f"{list(predictor.classes)}."
        )

    stored = {modality.name: modality for modality in spec.modalities}
    names = [name for name in predictor.modalities if name in stored]
    if not names:
        raise InputError(
            f"{directory}: stores {list(stored)}, the model takes {list(predictor.modalities)}."
        )

    for own in (predictor.input(name) for name in names):
        other = stored[own.name]
        if (own.kind, own.shape, own.dtype) != (other.kind, other.shape, other.dtype):
            raise InputError(
                f"{directory}: {own.name!r} is {other.kind} {list(other.shape)} of {other.dtype}, "
                f"the model takes {own.kind} {list(own.shape)} of {own.dtype}; prepare the data "
                "as the model's were."
            )

    samples = load_split(directory, split, names)
    for start in range(0, len(samples), ROWS):
        rows = samples.rows[start : start + ROWS]
        inputs = {name: np.asarray(samples.arrays[name][rows]) for name in names}
        present = {name: samples.has[rows, column] for column, name in enumerate(names)}
        yield Chunk([f"{split}/{row}" for row in rows], inputs, present, samples.labels[rows])
