"""The energy-and-pitch contour: tones of known pitch, noise, and what avmnist stores of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.media.contour import FRAME, contour
from data_prep.sets import avmnist
from fedcmi_flwr.data.schema import array_path, read_spec

RATE, HOP = 8000, 192
THREE = ["audio", "visual", "contour"]


def tone(frequency: float, gain: float = 0.5, samples: int = 4000) -> torch.Tensor:
    """Return a tone, [1, samples]."""
    return (gain * torch.sin(2 * torch.pi * frequency * torch.arange(samples) / RATE)).unsqueeze(0)


@pytest.mark.parametrize("frequency", [100.0, 160.0, 200.0, 320.0])
@pytest.mark.parametrize("gain", [0.5, 0.01])
def test_a_tone_has_its_pitch_and_its_power(frequency: float, gain: float) -> None:
    """A sine's mean power over whole periods is gain^2 / 2.

    8000 / frequency is a whole number of samples each time.

    Every multiple of the period fits as well: the pitch is the tone's, or one of its whole
    fractions.
    """
    energy, pitch, voicing = contour(tone(frequency, gain), RATE, HOP, 1e-4)[0, :, 3:-3]
    assert torch.allclose(energy, torch.tensor(gain**2 / 2 + 1e-4).log(), atol=0.02)
    assert torch.allclose(voicing, torch.ones(()), atol=1e-3)
    ratios = frequency / pitch.exp()
    assert torch.allclose(ratios, ratios.round(), atol=1e-3)
    assert bool((pitch.exp() >= 79.9).all())


def test_the_correlation_is_numpys() -> None:
    waveform = np.random.default_rng(0).standard_normal(1000)
    found = contour(torch.from_numpy(waveform).unsqueeze(0), RATE, HOP, 1e-4)[0].numpy()
    padded = np.pad(waveform, FRAME // 2, mode="reflect")
    assert found.shape == (3, 1000 // HOP + 1)
    for index in range(found.shape[1]):
        frame = padded[index * HOP : index * HOP + FRAME]
        peaks = {lag: _cosine(frame[:-lag], frame[lag:]) for lag in range(20, 101)}
        best = max(peaks, key=lambda lag: peaks[lag])
        expected = [np.log((frame**2).mean() + 1e-4), np.log(RATE / best), peaks[best]]
        assert found[:, index] == pytest.approx(expected)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_silence_is_finite_and_without_voice() -> None:
    found = contour(torch.zeros(1, 2000), RATE, HOP, 1e-4)
    assert bool(found.isfinite().all())
    assert found[0, 0].tolist() == pytest.approx([np.log(1e-4)] * 11)
    assert found[0, 2].abs().max() == 0


@pytest.fixture
def prepared(raw_avmnist: Path, tmp_path: Path) -> Path:
    return avmnist.prepare(raw_avmnist, tmp_path / "three", train_size=30, modalities=THREE)


def test_the_contour_is_stored_on_request_alone(
    prepared: Path, raw_avmnist: Path, tmp_path: Path
) -> None:
    two = avmnist.prepare(raw_avmnist, tmp_path / "two", train_size=30)
    assert read_spec(two).modality_names == ("audio", "visual")
    assert read_spec(prepared).modality_names == tuple(THREE)
    assert not any(
        key.startswith("contour")
        for key in json.loads((two / "dataset.json").read_text())["settings"]
    )
    settings = read_spec(prepared).settings
    assert (settings["contour_frame"], settings["contour_hz"]) == (FRAME, [80.0, 400.0])
    for split in ("train", "test"):
        for name in ("audio", "visual"):
            same = array_path(Path(), split, name)
            assert (prepared / same).read_bytes() == (two / same).read_bytes()


def test_each_channel_is_standardised_over_the_train_split(prepared: Path) -> None:
    spec = read_spec(prepared).modalities[2]
    assert (spec.kind, spec.shape, spec.dtype) == ("series", (3, 33), "float16")
    stored = np.load(array_path(prepared, "train", "contour")).astype(np.float64)
    found = (stored - np.reshape(spec.mean, (3, 1))) / np.reshape(spec.std, (3, 1))
    assert found.mean(axis=(0, 2)) == pytest.approx([0] * 3, abs=1e-9)
    assert found.std(axis=(0, 2)) == pytest.approx([1] * 3)


def test_the_contour_hears_the_noise_that_the_spectrogram_shows(prepared: Path) -> None:
    """After 2000 samples there is noise alone.

    Its energy goes up and down with the spectrogram's, frame by frame.
    """
    mel = np.load(array_path(prepared, "test", "audio")).astype(np.float64)[:, 0, :, 12:]
    energy = np.load(array_path(prepared, "test", "contour")).astype(np.float64)[:, 0, 12:]
    power = np.log(np.exp(mel).mean(axis=1))
    ups = [(array - array.mean(axis=1, keepdims=True)).ravel() for array in (power, energy)]
    assert np.corrcoef(*ups)[0, 1] > 0.4
