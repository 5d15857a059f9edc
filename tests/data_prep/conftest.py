"""Files made on the spot, in the layouts of the real archives."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], None]:
    """Return a writer of gzipped IDX files of unsigned bytes."""

    def write(path: Path, array: np.ndarray) -> None:
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))

    return write


@pytest.fixture
def write_wav() -> Callable[..., None]:
    """Return a writer of 16-bit mono WAV files: a tone of 440 Hz."""

    def write(path: Path, rate: int = 8000, samples: int = 2000, gain: float = 0.5) -> None:
        tone = gain * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
        soundfile.write(path, tone, rate, subtype="PCM_16")

    return write


@pytest.fixture
def raw_avmnist(tmp_path: Path, write_idx: Callable, write_wav: Callable) -> Path:
    """Make a raw AV-MNIST archive: 2 speakers, indices 0, 1 (test), 10, 11, 12 (train); 12 images a digit.

    That makes 40 test recordings and 60 others. Image i shows digit i % 10, and its first pixel is i.
    """
    raw = tmp_path / "raw"
    (raw / "recordings").mkdir(parents=True)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for index in (0, 1, 10, 11, 12):
                write_wav(raw / "recordings" / f"{digit}_{speaker}_{index}.wav", samples=1500 + 10 * index)
    images = np.zeros((120, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(120)
    write_idx(raw / "t10k-images-idx3-ubyte.gz", images)
    write_idx(raw / "t10k-labels-idx1-ubyte.gz", np.arange(120) % 10)
    return raw
