"""What is to be prepared, said before anything is decoded.

Samples, and how each modality of them is made.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
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
    """Job -> array of this shape, called in a worker: a module's function or a partial of one.
    Raises UnreadableFileError for a source file that cannot be used; any other exception ends
    the preparation."""
    recipe: Recipe
    """The same for a file that stands alone, for ``recipes.json``."""
    mean_std: MeanStd | None = (0.0, 1.0)
    """Normalisation; MEASURED: mean and standard deviation over the train split as stored, of
    series by channel, of vectors by feature."""

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
    """Actor, video, tweet: what must not stand in two splits, and what a natural federation
    deals by."""
    split: str
    jobs: Mapping[Modality, Any]
    """What each modality is made of, in values that pickle and whose ``repr`` says all of them;
    a modality that the sample lacks is left out."""
    sources: Mapping[Modality, str]
    """For the sample table: file within the raw archive, and place inside the file."""
    files: Sequence[str] = ()
    """Paths of all that it is decoded from: a call that goes on decodes again what has changed
    since."""


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
    label: str = ""
    """Its class; empty where that was not known."""


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

    def check(self) -> None:
        """Raise PrepError for repeated ids, samples without any modality, or no samples at all."""
        seen: set[tuple[str, str]] = set()
        for sample in self.samples:
            if (sample.split, sample.id) in seen:
                raise PrepError(
                    f"split {sample.split!r}: two samples are called {sample.id!r}; ids must "
                    "differ."
                )

            seen.add((sample.split, sample.id))
            if not sample.jobs:
                raise PrepError(
                    f"sample {sample.id!r}: has none of {[stream.name for stream in self.streams]}."
                )

        if not self.samples:
            raise PrepError(
                "no samples are left to prepare; look at the raw archive and the settings."
            )


def select_modalities(
    available: Sequence[Modality], wanted: Sequence[Modality] | None
) -> tuple[Modality, ...]:
    """Check which modalities to store; a device may own only some.

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
        raise PrepError(
            f"modalities = {list(wanted)}: must be one or more of {', '.join(available)}."
        )

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
