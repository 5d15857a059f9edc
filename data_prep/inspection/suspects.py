"""Stored samples that are likely to be mistakes (no numbers, silence, one colour, no words), by
class and split.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.media.hashed import is_hashed
from fedcmi_flwr.data.finite import chunks
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec, Recipe
from fedcmi_flwr.types import Modality

CONSTANT = {
    "spectrogram": "silent: one value everywhere",
    "image": "of one colour",
    "frames": "of one colour in all frames",
    "series": "never changing",
}
"""Kind -> what a sample is whose channels have one value each. Vectors may well be constant."""
NOT_FINITE = "holding NaN or Inf"
NO_WORDS = "without a word"
MARKERS = 2
"""Tokens beside those of words, [CLS] and [SEP]; hashed texts have none."""
_GLANCE = 61
"""Values of a sample between two that are looked at first: hardly any sample has one value at
all of those."""


@dataclass(frozen=True)
class Suspects:
    """Samples with the same flaw."""

    modality: Modality
    flaw: str
    counts: Mapping[str, NDArray[np.int64]]
    """Split -> [classes], samples."""

    @property
    def total(self) -> int:
        """How many there are."""
        return int(sum(counts.sum() for counts in self.counts.values()))


def find_suspects(
    splits: Mapping[str, Samples], classes: int, recipes: Mapping[Modality, Recipe]
) -> list[Suspects]:
    """Look at all stored samples.

    Parameters
    ----------
    splits
        Name -> samples, with all stored modalities.
    classes
        How many there are.
    recipes
        Modality -> how its samples are made, as far as that is known.

    Returns
    -------
    Flaws that at least one sample has, modality by modality.
    """
    found: dict[tuple[Modality, str], dict[str, NDArray[np.int64]]] = {}
    for split, samples in splits.items():
        for column, modality in enumerate(samples.modalities):
            has = samples.rows[samples.has[samples.rows, column]]
            hashed = is_hashed(str(recipes.get(modality.name, {}).get("tokenizer")))
            for rows, values in chunks(samples.arrays[modality.name], has):
                for flaw, bad in _flaws(modality, values, 0 if hashed else MARKERS):
                    counts = np.bincount(samples.labels[rows[bad]], minlength=classes)
                    by_split = found.setdefault((modality.name, flaw), {})
                    by_split[split] = by_split.get(split, 0) + counts

    return [Suspects(name, flaw, counts) for (name, flaw), counts in found.items()]


def _flaws(
    modality: ModalitySpec, values: NDArray[np.generic], markers: int
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the flaws that some samples of a chunk have, and which."""
    bad = np.zeros(len(values), dtype=bool)
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            yield NOT_FINITE, bad

    if modality.kind in CONSTANT:
        constant = _constant(modality, values) & ~bad
        if constant.any():
            yield CONSTANT[modality.kind], constant

    if modality.kind == "tokens":
        empty = np.count_nonzero(values, axis=1) <= markers
        if empty.any():
            yield NO_WORDS, empty


def _constant(modality: ModalitySpec, values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which samples have one value in each channel."""
    channels = 3 if modality.kind == "frames" else modality.shape[0]
    by_channel = values.swapaxes(1, 2) if modality.kind == "frames" else values
    flat = by_channel.reshape(len(values), channels, -1)
    first = flat[..., :1]
    constant = (flat[..., ::_GLANCE] == first).all(axis=(1, 2))
    for row in np.flatnonzero(constant):
        constant[row] = bool((flat[row] == first[row]).all())

    return np.asarray(constant)
