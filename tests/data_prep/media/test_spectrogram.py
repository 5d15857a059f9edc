"""data_prep.media.audio: the paper's spectrogram, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import UnreadableFileError
from data_prep.media.audio import log_spectrogram, spectrogram_shape
from data_prep.media.resampling import resample


def oracle(waveform: np.ndarray, seconds: float) -> np.ndarray:
    """Return the spectrogram of a clip at 16 kHz, window by window."""
    length = round(16000 * seconds)
    clip = np.clip(np.tile(waveform, length // len(waveform) + 1)[:length], -1, 1).astype(
        np.float64
    )
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    starts = range(0, length - 512 + 1, 159)
    power = np.stack(
        [np.abs(np.fft.rfft(window * clip[start : start + 512])) ** 2 for start in starts], axis=1
    )
    logs = np.log(power + 1e-7)
    return (logs - logs.mean()) / logs.std()


@pytest.mark.parametrize(("seconds", "windows"), [(3.0, 299), (10.0, 1004)])
@pytest.mark.parametrize("samples", [20000, 47999, 200000])
def test_spectrogram_is_that_of_numpy(seconds: float, windows: int, samples: int) -> None:
    # Some beyond 1
    noise = np.random.default_rng(0).standard_normal(samples) * np.linspace(0.1, 1, samples)
    waveform = noise.astype(np.float32)
    made = log_spectrogram(Path("x.wav"), torch.from_numpy(waveform), 16000, seconds)
    assert made.shape == spectrogram_shape(seconds) == (1, 257, windows)
    assert made.dtype == np.float16
    np.testing.assert_allclose(made[0].astype(np.float64), oracle(waveform, seconds), atol=5e-3)
    assert made.astype(np.float64).mean() == pytest.approx(0, abs=1e-3)
    assert made.astype(np.float64).std() == pytest.approx(1, abs=1e-3)


def test_other_rates_are_resampled() -> None:
    """A tone of 1000 Hz lies at 1000 / (16000 / 512) = bin 32, whatever its rate."""
    for rate in (8000, 16000, 22050, 44100, 48000):
        tone = np.sin(2 * np.pi * 1000 * np.arange(3 * rate) / rate).astype(np.float32)
        made = log_spectrogram(Path("x.wav"), torch.from_numpy(tone), rate, 3.0)
        assert (made[0].argmax(axis=0) == 32).all()


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
    made = resample(torch.from_numpy(tone), 44100, 16000).numpy()
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(made[100:-100], wanted[100:-100], atol=2e-3)


@pytest.mark.parametrize("level", [0.0, 1e-9])
def test_silence_is_unreadable(level: float) -> None:
    with pytest.raises(UnreadableFileError, match=r"x\.wav: silent"):
        log_spectrogram(Path("x.wav"), torch.full((100,), level), 16000, 3.0)
