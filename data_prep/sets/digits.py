"""What the audio-visual digit tasks share.

The plan that turns clean waveforms and images into noisy samples.

The numbers are choices of this project, by which neither modality is easy.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.errors import PrepError
from data_prep.media import contour
from data_prep.media.audio import add_noise, log_mel
from data_prep.media.grey import PIXEL_MEAN, PIXEL_STD, add_pixel_noise, fit_square
from data_prep.media.noise import NoiseRow
from data_prep.pipeline.plan import MEASURED, Exclusion, Plan, Planned, Stream
from fedcmi_flwr.data.schema import Recipe
from fedcmi_flwr.types import Modality

RATE_HZ = 8000
CLIP_SAMPLES = 6144
"""Length of a clip: 0.768 s."""
MEL_BANDS = 32
MEL_WINDOW = 256
MEL_HOP = 192
MEL_FLOOR = 1e-4
IMAGE_SIZE = 28
CLASSES = tuple("0123456789")
SOUND: Recipe = {
    "maker": "log-mel",
    "rate_hz": RATE_HZ,
    "samples": CLIP_SAMPLES,
    "bands": MEL_BANDS,
    "window": MEL_WINDOW,
    "hop": MEL_HOP,
    "floor": MEL_FLOOR,
}
TRACE: Recipe = {
    "maker": "contour",
    "of": "audio",
    "rate_hz": RATE_HZ,
    "samples": CLIP_SAMPLES,
    "hop": MEL_HOP,
    "floor": MEL_FLOOR,
}
PICTURE: Recipe = {"maker": "grey-image", "size": IMAGE_SIZE}
DTYPE = "float16"
ORIGINS: Mapping[Modality, Modality] = {"audio": "audio", "visual": "visual", "contour": "audio"}
"""Modality -> whose files and whose noise it is made of."""
MODALITIES: tuple[Modality, ...] = tuple(ORIGINS)
STORED: tuple[Modality, ...] = ("audio", "visual")
"""What is stored unless told otherwise."""

Job = tuple[Any, NoiseRow]
"""What a clean sample is made of, and its noise."""
ReadClip = Callable[[Any], Float[Tensor, " samples"]]
"""Content of an audio job -> waveform at RATE_HZ, CLIP_SAMPLES long, not silent."""


@dataclass(frozen=True)
class Levels:
    """How hard the task is made, and what is stored of it."""

    seed: int
    """0 or greater."""
    audio_snr_db: float
    """Signal-to-noise ratio of the white noise, over all samples of the clip."""
    image_noise: float
    """Standard deviation of the pixel noise in standardised units."""
    modalities: tuple[Modality, ...]
    """What to store; the samples and their noise are the same whatever is left out."""

    def __post_init__(self) -> None:
        """Check the ranges before anything is read or written."""
        if self.seed < 0:
            raise PrepError(f"seed = {self.seed}: must be 0 or greater.")
        if not math.isfinite(self.audio_snr_db):
            raise PrepError(
                f"audio_snr_db = {self.audio_snr_db}: must be a finite number of dB (100 is clean)."
            )
        if not 0 <= self.image_noise < math.inf:
            raise PrepError(
                f"image_noise = {self.image_noise}: must be a finite number, 0 or greater."
            )

    def settings(self) -> dict[str, Any]:
        """Return these levels and the constants of this file, as ``dataset.json`` records them."""
        constants = {
            "contour_frame": contour.FRAME,
            "contour_hz": [contour.LOWEST_HZ, contour.HIGHEST_HZ],
        }
        return {
            **asdict(self),
            **(constants if "contour" in self.modalities else {}),
            "rate_hz": RATE_HZ,
            "clip_samples": CLIP_SAMPLES,
            "mel_bands": MEL_BANDS,
            "mel_window": MEL_WINDOW,
            "mel_hop": MEL_HOP,
            "mel_floor": MEL_FLOOR,
            "image_size": IMAGE_SIZE,
        }


@dataclass(frozen=True)
class CleanDigit:
    """One sample before noise."""

    id: str
    label: int
    group: str
    raw: Mapping[Modality, Any]
    """"audio": what the data set's ``ReadClip`` takes; "visual": the pixels of a square, row by
    row, a byte each."""
    sources: Mapping[Modality, str]
    """Where "audio" and "visual" came from: file in the raw archive, and place inside the file."""


def plan_digits(
    name: str,
    splits: Mapping[str, Sequence[CleanDigit]],
    levels: Levels,
    streams: Sequence[Stream],
    tools: Mapping[str, str],
    excluded: Sequence[Exclusion] = (),
) -> Plan:
    """Plan the samples of a digit task, each with noise of its own.

    Which noise a modality of a sample gets depends on its row in its split and on the seed, not
    on what else is stored.

    Parameters
    ----------
    name
        The data set's name.
    splits
        Clean samples per split; "train" is one of them.
    levels
        Seed, and what to store.
    streams
        From :func:`digit_streams`.
    tools
        Versions of what makes the samples.
    excluded
        What of the raw archive is left out.

    Returns
    -------
    The plan.
    """
    samples = []
    for split, digits in splits.items():
        for row, digit in enumerate(digits):
            noise = {
                origin: NoiseRow(levels.seed, f"{name}/{split}/{origin}-noise", row)
                for origin in ORIGINS.values()
            }
            origins = {modality: ORIGINS[modality] for modality in levels.modalities}
            jobs = {
                modality: (digit.raw[origin], noise[origin]) for modality, origin in origins.items()
            }
            sources = {modality: digit.sources[origin] for modality, origin in origins.items()}
            samples.append(Planned(digit.id, digit.label, digit.group, split, jobs, sources))

    return Plan(CLASSES, streams, samples, excluded, tools)


def digit_streams(levels: Levels, read_clip: ReadClip, brightest: int) -> list[Stream]:
    """Describe how the modalities are stored.

    Parameters
    ----------
    levels
        Noise, and what to store.
    read_clip
        A module's function: it is called in a worker.
    brightest
        Byte of a pixel that is all ink.

    Returns
    -------
    One stream for each modality; audio is normalised by the mean and standard deviation of the
    train split as stored, the contour channel by channel.
    """
    frames = CLIP_SAMPLES // MEL_HOP + 1
    mel, square, trace = (
        (1, MEL_BANDS, frames),
        (1, IMAGE_SIZE, IMAGE_SIZE),
        (len(contour.CHANNELS), frames),
    )
    hear = partial(_hear, read_clip, levels.audio_snr_db)
    see = partial(_see, brightest, levels.image_noise)
    streams = {
        "audio": Stream(
            "audio", "spectrogram", mel, DTYPE, partial(_spectrogram, hear), SOUND, MEASURED
        ),
        "visual": Stream("visual", "image", square, DTYPE, see, PICTURE, (PIXEL_MEAN, PIXEL_STD)),
        "contour": Stream(
            "contour", "series", trace, DTYPE, partial(_contour, hear), TRACE, MEASURED
        ),
    }

    return [streams[modality] for modality in levels.modalities]


def _hear(read_clip: ReadClip, snr_db: float, job: Job) -> Float[Tensor, "1 samples"]:
    content, noise = job
    return add_noise(read_clip(content), noise.draw(CLIP_SAMPLES), snr_db).unsqueeze(0)


def _spectrogram(hear: Callable[[Job], Tensor], job: Job) -> Float[np.ndarray, "1 mels frames"]:
    return log_mel(hear(job), RATE_HZ, MEL_BANDS, MEL_WINDOW, MEL_HOP, MEL_FLOOR).squeeze(0).numpy()


def _contour(hear: Callable[[Job], Tensor], job: Job) -> Float[np.ndarray, "3 frames"]:
    return contour.contour(hear(job), RATE_HZ, MEL_HOP, MEL_FLOOR).squeeze(0).numpy()


def _see(brightest: int, sigma: float, job: Job) -> Float[np.ndarray, "1 height width"]:
    pixels, noise = job
    side = math.isqrt(len(pixels))
    image = torch.from_numpy(
        np.frombuffer(pixels, np.uint8).reshape(side, side) / np.float32(brightest)
    )
    noisy = add_pixel_noise(
        fit_square(image, IMAGE_SIZE), noise.draw(IMAGE_SIZE, IMAGE_SIZE), sigma
    )

    return noisy.unsqueeze(0).numpy()
