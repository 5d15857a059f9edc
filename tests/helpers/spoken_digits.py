"""Raw AV-MNIST archives, made on the spot: tones for recordings, almost empty images."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

INDICES = (0, 1, 10, 11, 12)
"""Of the recordings of a digit and speaker: those below 10 are for testing."""


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a gzipped IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_wav(path: Path, rate: int = 8000, samples: int = 2000, gain: float = 0.5) -> None:
    """Write a 16-bit mono WAV file: a tone of 440 Hz."""
    tone = gain * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    soundfile.write(path, tone, rate, subtype="PCM_16")


def write_avmnist(raw: Path, indices: Sequence[int] = INDICES, images: int = 120) -> None:
    """Write an archive of 10 digits and 2 speakers.

    Image i shows digit i % 10, and its first pixel is i.

    Unless told otherwise it has 40 test recordings and 60 others, and 12 images of a digit.
    """
    (raw / "recordings").mkdir(parents=True)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for index in indices:
                write_wav(
                    raw / "recordings" / f"{digit}_{speaker}_{index}.wav", samples=1500 + 10 * index
                )
    pixels = np.zeros((images, 28, 28), np.uint8)
    pixels[:, 0, 0] = np.arange(images)
    write_idx(raw / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(raw / "t10k-labels-idx1-ubyte.gz", np.arange(images) % 10)
