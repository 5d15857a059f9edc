"""What is to be prepared, said before anything is decoded: samples, and how each modality of them is made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.pipeline.writer import Exclusion
from fedcmi_flwr.data.schema import Recipe
from fedcmi_flwr.types import Modality

MeanStd = tuple[float | tuple[float, ...], float | tuple[float, ...]]
"""Mean and standard deviation in stored units: one of each, or one a channel."""
MEASURED = None
"""``Stream.mean_std`` of a modality that is normalised by what its train split measures."""


@dataclass(frozen=True)
class Stream:
    """How one modality is made."""

    name: Modality
    kind: str
    """One of ``schema.KINDS``."""
    shape: tuple[int, ...]
    """Of one sample."""
    dtype: str
    """NumPy name of the stored dtype."""
    decode: Callable[[Any], NDArray[Any]]
    """Job -> array of this shape, called in a worker: a module's function or a partial of one. Raises
    UnreadableFileError for a source file that cannot be used; any other exception ends the preparation."""
    recipe: Recipe
    """The same for a file that stands alone, for ``recipes.json``."""
    mean_std: MeanStd | None = (0.0, 1.0)
    """Normalisation; MEASURED: mean and standard deviation over the train split as stored, of series by
    channel, of vectors by feature."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Planned:
    """One sample to make."""

    id: str
    """Unique within its split."""
    label: int
    group: str
    """Actor, video, tweet: what must not stand in two splits, and what a natural federation deals by."""
    split: str
    jobs: Mapping[Modality, Any]
    """What each modality is made of, in values that pickle; a modality that the sample lacks is left out."""
    sources: Mapping[Modality, str]
    """For the sample table: file within the raw archive, and place inside the file."""


@dataclass(frozen=True)
class Plan:
    """All that there is to do."""

    classes: Sequence[str]
    """In index order."""
    streams: Sequence[Stream]
    """In stored order."""
    samples: Sequence[Planned]
    """In stored order within each split."""
    excluded: Sequence[Exclusion] = ()
    """What the data set's own rules leave out; does not count as unreadable."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of what decodes and transforms the media."""
