"""Small NPZ files in the form that `fedcmi prep npz` reads.

A vector, a series, a colour and a grey image.
"""

from pathlib import Path
from typing import Any

import numpy as np


def make_arrays(count: int = 48) -> dict[str, np.ndarray]:
    """Return arrays of two classes in turn, each told by every modality; a third is for testing.

    Four persons have given three samples of each split; the last sample of all is of nobody.
    """
    rng, row = np.random.default_rng(0), np.arange(count)
    labels, split = row % 2, np.where(row % 3 == 2, "test", "train")
    signal = labels.astype(np.float32)
    vector = rng.normal(size=(count, 5)) + 2 * signal[:, None]
    series = rng.normal(size=(count, 9, 2)) + 2 * signal[:, None, None]
    photo = np.clip(rng.normal(80 + 90 * signal[:, None, None, None], 20, (count, 8, 8, 3)), 0, 255)
    grey = np.clip(rng.normal(80 + 90 * signal[:, None, None], 20, (count, 8, 6)), 0, 255)
    group = row // 6 % 4
    group[-1] = -1
    return {
        "lab": vector.astype(np.float32), "motion": series.astype(np.float32), "photo": photo.astype(np.uint8),
        "grey": grey.astype(np.uint8), "y": labels, "y_colour": row % 3, "split": split, "group": group,
        "trial": row,
    }  # fmt: skip


def write_arrays(path: Path, **changes: Any) -> Path:
    """Write :func:`make_arrays` with changes; None leaves an array out."""
    arrays = {
        name: array for name, array in {**make_arrays(), **changes}.items() if array is not None
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path
