"""A prepared directory of arrays that a test has at hand, made by the pipeline itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.pipeline.plan import Exclusion, Plan, Planned, Stream
from data_prep.pipeline.prepare import prepare_plan
from fedcmi_flwr.data.schema import DatasetSpec
from fedcmi_flwr.types import Modality


@dataclass(frozen=True)
class StoredSplit:
    """One split, as it is to be stored."""

    ids: Sequence[str]
    labels: NDArray[np.int64]
    groups: Sequence[str]
    sources: Mapping[Modality, Sequence[str]]
    arrays: Mapping[Modality, NDArray[Any]]
    """[samples, *shape] of each modality, in stored order."""
    present: Mapping[Modality, NDArray[np.bool_]] = field(default_factory=dict)
    """[samples] of each modality that some samples lack."""

    def planned(self, split: str) -> list[Planned]:
        """Return the samples; their jobs are their stored values."""
        samples = []
        for row, sample in enumerate(self.ids):
            has = [
                name for name in self.arrays if name not in self.present or self.present[name][row]
            ]
            jobs = {name: self.arrays[name][row] for name in has}
            sources = {name: self.sources[name][row] for name in has}
            samples.append(
                Planned(sample, int(self.labels[row]), self.groups[row], split, jobs, sources)
            )
        return samples


def store(
    out: Path,
    spec: DatasetSpec,
    splits: Mapping[str, StoredSplit],
    excluded: Sequence[Exclusion] = (),
) -> Path:
    """Make a prepared directory with the names, normalisation and settings of ``spec``.

    Samples are counted anew.
    """
    streams = [
        Stream(m.name, m.kind, m.shape, m.dtype, np.asarray, {}, (m.mean, m.std))
        for m in spec.modalities
    ]
    samples = [sample for name, split in splits.items() for sample in split.planned(name)]
    plan = Plan(spec.classes, streams, samples, excluded, spec.tools)
    return prepare_plan(out, spec.name, spec.settings, lambda: plan)
