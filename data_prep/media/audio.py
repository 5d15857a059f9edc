"""Audio from file to stored array: read, fit the length, add noise, spectrograms.

Waveforms are float32 in [-1, 1] as read; ``samples`` in a shape counts points in time.
"""

import functools
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Float, Float16
from torch import Tensor

from data_prep.errors import UnreadableFileError
from data_prep.media.resampling import resample
from data_prep.media.segment import Segment
from data_prep.media.signature import true_reason
from data_prep.media.wholeness import check_whole, is_sound_file
from data_prep.pipeline.notes import note

LOUDEST = 4.0
"""Largest sample that counts as an overshoot of full scale, 1; it is clipped."""
HIGHEST_RATE_HZ = 1_000_000
_MARGIN = 1.0
"""Seconds that are read beyond what is needed: resampling looks ahead."""
_SHORT = 0.98
"""Share of the wanted length below which a recording counts as shorter; encoders and resampling
cost a little."""
_BLOCK = 1 << 20
"""Samples of all channels that are decoded at a time."""
SPECTROGRAM_RATE_HZ = 16000
"""Rate that clips are resampled to before :func:`log_spectrogram`."""
SPECTROGRAM_WINDOW = 512
"""Samples of a Hann window; half of them plus one are the frequencies of a spectrogram."""
SPECTROGRAM_HOP = 159
"""Samples from one window to the next."""
TOO_QUIET = (
    "trim the silence at its start, take another recording, or fetch a damaged file of an "
    "archive again."
)
"""What to do about a recording of which nothing is heard."""


def read_sound(
    path: Path,
    segment: Segment | None = None,
    *,
    seconds: float | None = None,
    stream: int | None = None,
) -> tuple[Float[Tensor, " samples"], int]:
    """Read a sound file, or the soundtrack of a video; more than one channel is averaged to mono.

    What the file is, its first bytes say, not its name. libsndfile reads what it knows, FFmpeg
    all else, segments, and what libsndfile gives up.

    Parameters
    ----------
    path
        Any file that libsndfile or FFmpeg decodes.
    segment
        Start and end in seconds; None is all of it.
    seconds
        How much is needed from the start; no more is decoded. None is all of it.
    stream
        Number of the sound stream, from 1; None: the one flagged default, else the first.

    Returns
    -------
    The waveform [samples], float32, in [-1, 1] but for overshoots, and its rate in Hz.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is not audio, cut off, holds no samples, or samples that are
        no sound: not finite, or far from [-1, 1].
    """
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the raw archive.")

    if segment is None and stream in (None, 1) and is_sound_file(path):
        try:
            return _checked(path, *_read_sound_file(path, seconds))
        except soundfile.LibsndfileError as error:
            reason = f"not decodable as audio ({error.error_string}); fetch the file again."

        try:
            return _checked(path, *_read_soundtrack(path, None, seconds, stream))
        except UnreadableFileError as error:
            raise UnreadableFileError(path, true_reason(path, reason)) from error

    return _checked(path, *_read_soundtrack(path, segment, seconds, stream))


def _read_sound_file(path: Path, seconds: float | None) -> tuple[Float[Tensor, " samples"], int]:
    """Read a file by libsndfile, some samples at a time, so that its channels are never all in
    memory.
    """
    check_whole(path)
    with soundfile.SoundFile(path) as file:
        left = (
            file.frames
            if seconds is None
            else min(file.frames, math.ceil((seconds + _MARGIN) * file.samplerate))
        )
        blocks = []
        while left > 0:
            block = file.read(
                min(left, max(_BLOCK // file.channels, 1)), dtype="float32", always_2d=True
            )
            if not len(block):
                break

            blocks.append(torch.from_numpy(block).mean(dim=1))
            left -= len(block)

        return torch.cat(blocks) if blocks else torch.zeros(0), int(file.samplerate)


def _read_soundtrack(
    path: Path, segment: Segment | None, seconds: float | None, stream: int | None
) -> tuple[Float[Tensor, " samples"], int]:
    # Here: FFmpeg is loaded where it is needed
    from data_prep.media.soundtrack import (
        read_soundtrack,
    )

    if segment is None and seconds is not None:
        segment = (0.0, seconds + _MARGIN)

    return read_soundtrack(path, segment, stream)


def _checked(
    path: Path, waveform: Float[Tensor, " samples"], rate: int
) -> tuple[Float[Tensor, " samples"], int]:
    """Refuse what is no sound."""
    if not len(waveform):
        raise UnreadableFileError(path, "audio file without samples; fetch the file again.")
    if not bool(waveform.isfinite().all()):
        raise UnreadableFileError(
            path, "holds samples that are infinite or not a number; fetch the file again."
        )

    peak = float(waveform.abs().max())
    if peak > LOUDEST:
        raise UnreadableFileError(
            path,
            f"samples of up to {peak:.4g}, but full scale is 1: integers stored as floats? Scale "
            "them to [-1, 1].",
        )
    if rate > HIGHEST_RATE_HZ:
        raise UnreadableFileError(
            path, f"its header says {rate} Hz, which no recording has; look at the file."
        )

    return waveform, rate


def fit_length(waveform: Float[Tensor, " samples"], length: int) -> Float[Tensor, " length"]:
    """Cut a waveform at its end, or pad it with zeros at its end; its start stays in place.

    Add noise after this, not before: otherwise the padding is silent and gives the clip's length
    away.

    Parameters
    ----------
    waveform
        [samples], one or more.
    length
        Wanted number of samples.

    Returns
    -------
    [length].

    Examples
    --------
    >>> fit_length(torch.tensor([1.0, 2.0, 3.0]), 2).tolist(), fit_length(torch.tensor([1.0]), 3).tolist()
    ([1.0, 2.0], [1.0, 0.0, 0.0])
    """
    kept = waveform[:length]
    return torch.nn.functional.pad(kept, (0, length - len(kept)))


def add_noise(
    waveform: Float[Tensor, " samples"], noise: Float[Tensor, " samples"], snr_db: float
) -> Float[Tensor, " samples"]:
    """Add noise at a signal-to-noise ratio relative to the clip's own mean power.

    Parameters
    ----------
    waveform
        [samples]. The mean power is taken over all of them, zero padding included.
    noise
        [samples], of variance 1.
    snr_db
        10 log10(mean signal power / noise variance) in dB; 0 is as much noise as signal,
        negative is more.

    Returns
    -------
    [samples], the noisy clip; not clipped to [-1, 1].

    Raises
    ------
    ValueError
        ``snr_db`` is not finite, or the clip is silent: no noise level has this ratio to no signal.
    """
    if not math.isfinite(snr_db):
        raise ValueError(f"snr_db = {snr_db}: must be a finite number of dB.")

    power = waveform.square().mean()
    if not bool(power):
        raise ValueError(
            "the clip is silent: a signal-to-noise ratio needs a signal; leave it out."
        )

    return waveform + noise * (power * 10 ** (-snr_db / 10)).sqrt()


def log_mel(
    waveforms: Float[Tensor, "batch samples"],
    rate: int,
    n_mels: int = 32,
    n_fft: int = 256,
    hop: int = 192,
    floor: float = 1e-4,
) -> Float[Tensor, "batch 1 mels frames"]:
    """Return the natural logarithm of the mel power spectrogram plus a floor.

    Periodic Hann window of ``n_fft``, frames centred with reflected edges, HTK mel scale from 0
    Hz to half the rate, triangles of height 1 (torchaudio's defaults).

    Parameters
    ----------
    waveforms
        [batch, samples], all of one length, at least ``n_fft``.
    rate
        Samples per second.
    n_mels
        Number of mel bands.
    n_fft
        Window length in samples.
    hop
        Samples from one frame to the next.
    floor
        Added to the power before the logarithm; above 0, so that silence is finite.

    Returns
    -------
    [batch, 1, n_mels, samples // hop + 1].

    Raises
    ------
    ValueError
        The waveforms are shorter than a window.
    """
    if waveforms.shape[-1] < n_fft:
        raise ValueError(
            f"waveforms of {waveforms.shape[-1]} samples: shorter than the window, {n_fft} samples."
        )

    power: Tensor = _mel_transform(rate, n_mels, n_fft, hop)(waveforms)
    return (power + floor).log().unsqueeze(1)


@functools.lru_cache(maxsize=8)
def _mel_transform(
    rate: int, n_mels: int, n_fft: int, hop: int
) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels)


def tile(waveform: Float[Tensor, " samples"], length: int) -> Float[Tensor, " length"]:
    """Repeat a waveform until it is long enough, and cut it at its end.

    Parameters
    ----------
    waveform
        [samples], one or more.
    length
        Wanted number of samples.

    Returns
    -------
    [length].

    Examples
    --------
    >>> tile(torch.tensor([1.0, 2.0]), 5).tolist(), tile(torch.tensor([1.0, 2.0]), 1).tolist()
    ([1.0, 2.0, 1.0, 2.0, 1.0], [1.0])
    """
    return waveform.repeat(-(-length // len(waveform)))[:length]


def spectrogram_shape(seconds: float) -> tuple[int, int, int]:
    """Return the shape of :func:`log_spectrogram` of a clip.

    Parameters
    ----------
    seconds
        Length of the clip.

    Returns
    -------
    1, frequencies, windows.

    Examples
    --------
    >>> spectrogram_shape(3.0), spectrogram_shape(10.0)
    ((1, 257, 299), (1, 257, 1004))
    """
    samples = round(seconds * SPECTROGRAM_RATE_HZ)
    windows = (samples - SPECTROGRAM_WINDOW) // SPECTROGRAM_HOP + 1
    return 1, SPECTROGRAM_WINDOW // 2 + 1, windows


def log_spectrogram(
    path: Path, waveform: Float[Tensor, " samples"], rate: int, seconds: float
) -> Float16[np.ndarray, "1 frequencies windows"]:
    """Return the standardised log-power spectrogram of a clip.

    16 kHz, tiled to a length and cut, clipped to [-1, 1]; periodic Hann windows of 512 samples,
    159 apart, none of them reaching past an end; ln(power + 1e-7); mean 0 and standard deviation
    1 over the clip.

    Parameters
    ----------
    path
        Where the waveform is from, for the error.
    waveform
        [samples], one or more.
    rate
        Its samples per second.
    seconds
        What it is tiled to.

    Returns
    -------
    Of :func:`spectrogram_shape`, float16 as stored.

    Raises
    ------
    UnreadableFileError
        The clip is silent: its spectrogram is one number everywhere.
    """
    resampled, wanted = (
        resample(waveform, rate, SPECTROGRAM_RATE_HZ),
        round(seconds * SPECTROGRAM_RATE_HZ),
    )
    if len(resampled) < _SHORT * wanted:
        note(f"shorter than {seconds:g} s, and repeated to that length")

    clip = tile(resampled, wanted).clamp(-1, 1)
    spectrum = torch.stft(
        clip, SPECTROGRAM_WINDOW, SPECTROGRAM_HOP, window=_hann(), center=False, return_complex=True
    )
    logs = (spectrum.real.square() + spectrum.imag.square() + 1e-7).log()
    std, mean = torch.std_mean(logs, correction=0)
    if float(std) < 1e-4:
        raise UnreadableFileError(path, f"silent; {TOO_QUIET}")

    standardised: Float16[np.ndarray, "1 frequencies windows"] = (
        ((logs - mean) / std).half().unsqueeze(0).numpy()
    )

    return standardised


@functools.lru_cache(maxsize=1)
def _hann() -> Tensor:
    return torch.hann_window(SPECTROGRAM_WINDOW)


def fit_clip(
    path: Path, waveform: Float[Tensor, " samples"], samples: int
) -> Float[Tensor, " clip_samples"]:
    """Fit a recording to a clip's length; UnreadableFileError where nothing of it can be heard."""
    clip = fit_length(waveform, samples)
    if not bool(clip.any()):
        raise UnreadableFileError(path, f"silent in its first {samples} samples; {TOO_QUIET}")

    return clip
