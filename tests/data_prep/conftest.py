"""Files made on the spot, in the layouts of the real archives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spoken_digits


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], None]:
    """Return a writer of gzipped IDX files of unsigned bytes."""
    return spoken_digits.write_idx


@pytest.fixture
def write_wav() -> Callable[..., None]:
    """Return a writer of 16-bit mono WAV files: a tone of 440 Hz."""
    return spoken_digits.write_wav


@pytest.fixture
def raw_avmnist(tmp_path: Path) -> Path:
    """Make a raw AV-MNIST archive: 40 test recordings and 60 others."""
    spoken_digits.write_avmnist(tmp_path / "raw")
    return tmp_path / "raw"
