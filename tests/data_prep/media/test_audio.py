"""data_prep.media.audio against hand numbers and a NumPy oracle."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from data_prep.errors import UnreadableFileError
from data_prep.media.audio import add_noise, fit_length, log_mel, read_sound


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _white(samples: int) -> torch.Tensor:
    return torch.randn(samples, generator=_generator())


def test_reads_back_16_bit_samples_exactly(tmp_path: Path) -> None:
    """A 16-bit sample k is stored as k / 32768."""
    counts = np.array([0, 1, -32768, 32767, 100], np.int16)
    soundfile.write(tmp_path / "a.wav", counts, 8000, subtype="PCM_16")
    waveform, rate = read_sound(tmp_path / "a.wav")
    assert rate == 8000
    assert waveform.dtype == torch.float32
    assert waveform.tolist() == (counts / 32768).tolist()


def test_averages_channels(tmp_path: Path) -> None:
    """Left 0.5 and right -0.25 average to 0.125."""
    soundfile.write(tmp_path / "a.wav", np.tile([0.5, -0.25], (10, 1)), 16000, subtype="FLOAT")
    waveform, rate = read_sound(tmp_path / "a.wav")
    assert rate == 16000
    assert waveform.tolist() == [0.125] * 10


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"gone\.wav: not found"):
        read_sound(tmp_path / "gone.wav")


def test_text_named_wav_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.wav").write_text("this is not audio at all, only a long enough text\n" * 10)
    with pytest.raises(UnreadableFileError, match=r"note\.wav: not decodable") as caught:
        read_sound(tmp_path / "note.wav")
    assert caught.value.path == tmp_path / "note.wav"


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(UnreadableFileError, match=r"empty\.wav"):
        read_sound(tmp_path / "empty.wav")


def test_audio_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(UnreadableFileError, match="without samples"):
        read_sound(tmp_path / "none.wav")


@pytest.mark.parametrize("kept", [10, 44, 60, 1000])
def test_cut_off_wav_is_refused(tmp_path: Path, write_wav: Callable, kept: int) -> None:
    """A WAV of 2,000 samples has 44 + 4,000 bytes.

    The library alone would read what is left of them.
    """
    path = tmp_path / "cut.wav"
    write_wav(path)
    whole = path.read_bytes()
    assert len(whole) == 4044
    path.write_bytes(whole[:kept])
    with pytest.raises(
        UnreadableFileError, match=rf"cut off: {kept} bytes found, its header says 4044"
    ):
        read_sound(path)


def test_wav_of_undeclared_size_is_read(tmp_path: Path, write_wav: Callable) -> None:
    """Writers into a pipe cannot go back to fill the size in; they leave the largest number."""
    path = tmp_path / "piped.wav"
    write_wav(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff\xff\xff\xff" + whole[8:])
    assert len(read_sound(path)[0]) == 2000


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.1]), 8000, subtype="FLOAT")
    with pytest.raises(UnreadableFileError, match="not a number"):
        read_sound(tmp_path / "nan.wav")


@pytest.mark.parametrize("length", [1, 4, 5, 6, 100])
def test_fit_length_keeps_the_start(length: int) -> None:
    waveform = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    fitted = fit_length(waveform, length)
    assert fitted.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0][:length] + [0.0] * (length - 5)


@pytest.mark.parametrize("snr_db", [-15.0, -5.0, 0.0, 10.0])
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_noise_has_the_stated_ratio(snr_db: float, gain: float) -> None:
    """A clip of power 0.5 gets noise of power 0.5 / r, one of 0.005 gets 0.005 / r, r = 10^(dB /
    10).

    The power of n Gaussian samples scatters by sqrt(2 / n), 0.6 % here; the test allows 5 of those.
    """
    clip = gain * torch.sin(2 * math.pi * torch.arange(50000) / 50)
    noise = add_noise(clip, _white(50000), snr_db) - clip
    expected = 0.5 * gain**2 / 10 ** (snr_db / 10)
    assert float(noise.square().mean()) == pytest.approx(expected, rel=5 * math.sqrt(2 / 50000))


def test_noise_of_a_clip_covers_its_padding() -> None:
    """Signal power 1 over half of the clip is 0.5 over all of it.

    Noise power 0.5 at 0 dB, padding too.
    """
    clip = fit_length(torch.ones(20000), 40000)
    noisy = add_noise(clip, _white(40000), 0.0)
    assert noisy.shape == clip.shape
    assert float(noisy[20000:].square().mean()) == pytest.approx(0.5, rel=5 * math.sqrt(2 / 20000))


def test_silent_clip_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="the clip is silent"):
        add_noise(torch.zeros(10), _white(10), 0.0)


@pytest.mark.parametrize("snr_db", [math.nan, math.inf, -math.inf])
def test_ratio_must_be_finite(snr_db: float) -> None:
    with pytest.raises(ValueError, match="snr_db"):
        add_noise(torch.ones(10), _white(10), snr_db)


def _oracle_log_mel(
    waveform: np.ndarray, rate: int, n_mels: int, n_fft: int, hop: int, floor: float
) -> np.ndarray:
    """Compute the definition in NumPy: [mels, frames]."""
    padded = np.pad(waveform, n_fft // 2, mode="reflect")
    starts = range(0, len(padded) - n_fft + 1, hop)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    power = np.stack(
        [np.abs(np.fft.rfft(window * padded[s : s + n_fft])) ** 2 for s in starts], axis=1
    )
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    hz = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rising = (hz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hz) / (corners[2:] - corners[1:-1])[:, None]
    return np.log(np.clip(np.minimum(rising, falling), 0, None) @ power + floor)


@pytest.mark.parametrize(
    ("rate", "n_mels", "n_fft", "hop"), [(8000, 32, 256, 192), (16000, 20, 512, 353)]
)
def test_log_mel_is_its_definition(rate: int, n_mels: int, n_fft: int, hop: int) -> None:
    """Noise and a silent clip, so that every band and the floor count."""
    clips = np.random.default_rng(0).normal(0, 0.3, (3, 6144)).astype(np.float32)
    clips[2] = 0
    result = log_mel(torch.from_numpy(clips), rate, n_mels, n_fft, hop, floor=1e-4)
    assert result.shape == (3, 1, n_mels, 6144 // hop + 1)
    expected = np.stack([_oracle_log_mel(clip, rate, n_mels, n_fft, hop, 1e-4) for clip in clips])
    np.testing.assert_allclose(result[:, 0].numpy(), expected, atol=2e-3)
    assert result[2].max() == pytest.approx(math.log(1e-4), abs=1e-5)


def test_log_mel_defaults_are_those_of_the_digit_tasks() -> None:
    clips = torch.randn(2, 6144, generator=_generator())
    assert log_mel(clips, 8000).shape == (2, 1, 32, 33)
    assert torch.equal(
        log_mel(clips, 8000), log_mel(clips, 8000, n_mels=32, n_fft=256, hop=192, floor=1e-4)
    )


def test_log_mel_of_a_clip_does_not_depend_on_its_batch() -> None:
    clips = torch.randn(5, 6144, generator=_generator())
    torch.testing.assert_close(
        log_mel(clips, 8000)[3:4], log_mel(clips[3:4], 8000), rtol=0, atol=1e-5
    )


def test_log_mel_needs_a_whole_window() -> None:
    with pytest.raises(ValueError, match="255 samples: shorter than the window, 256"):
        log_mel(torch.zeros(1, 255), 8000)


def test_declared_shapes_hold(tmp_path: Path, write_wav: Callable) -> None:
    """Run each function with its jaxtyping signature enforced."""
    write_wav(tmp_path / "a.wav")
    waveform, rate = jaxtyped(typechecker=beartype)(read_sound)(tmp_path / "a.wav")
    fitted = jaxtyped(typechecker=beartype)(fit_length)(waveform, 6144)
    noisy = jaxtyped(typechecker=beartype)(add_noise)(fitted, _white(6144), 0.0)
    assert jaxtyped(typechecker=beartype)(log_mel)(noisy.unsqueeze(0), rate).shape == (1, 1, 32, 33)
