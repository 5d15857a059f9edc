"""What the audio-visual digit tasks share: from clean waveforms and images to a noisy prepared directory.

Source of the numbers: method.md, "What to expect".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import PrepError
from data_prep.media import contour
from data_prep.media.audio import add_noise, log_mel
from data_prep.media.grey import PIXEL_MEAN, PIXEL_STD, add_pixel_noise
from data_prep.pipeline.writer import Samples, write_split
from fedcmi_flwr.data.schema import DatasetSpec, ModalitySpec, Recipe, write_recipes
from fedcmi_flwr.seeding import torch_generator
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
CONTOUR = "contour"
Normalisation = float | tuple[float, ...]
"""One number, or one per channel."""


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
            raise PrepError(f"audio_snr_db = {self.audio_snr_db}: must be a finite number of dB (100 is clean).")
        if not 0 <= self.image_noise < math.inf:
            raise PrepError(f"image_noise = {self.image_noise}: must be a finite number, 0 or greater.")

    def settings(self) -> dict[str, Any]:
        """Return these levels and the constants of this file, as ``dataset.json`` records them."""
        constants = {"contour_frame": contour.FRAME, "contour_hz": [contour.LOWEST_HZ, contour.HIGHEST_HZ]}
        return {
            **asdict(self),
            **(constants if CONTOUR in self.modalities else {}),
            "rate_hz": RATE_HZ,
            "clip_samples": CLIP_SAMPLES,
            "mel_bands": MEL_BANDS,
            "mel_window": MEL_WINDOW,
            "mel_hop": MEL_HOP,
            "mel_floor": MEL_FLOOR,
            "image_size": IMAGE_SIZE,
        }


@dataclass(frozen=True)
class CleanDigits:
    """One split before noise."""

    ids: Sequence[str]
    labels: NDArray[np.int64]
    groups: Sequence[str]
    sources: Mapping[Modality, Sequence[str]]
    waveforms: Float[Tensor, "batch samples"]
    """At RATE_HZ, CLIP_SAMPLES long, none silent."""
    images: Float[Tensor, "batch height width"]
    """0 to 1."""


def _spectrograms(clean: CleanDigits, levels: Levels, generator: torch.Generator) -> Tensor:
    noisy = add_noise(clean.waveforms, levels.audio_snr_db, generator)
    return log_mel(noisy, RATE_HZ, MEL_BANDS, MEL_WINDOW, MEL_HOP, MEL_FLOOR)


def _contours(clean: CleanDigits, levels: Levels, generator: torch.Generator) -> Tensor:
    noisy = add_noise(clean.waveforms, levels.audio_snr_db, generator)
    return contour.contour(noisy, RATE_HZ, MEL_HOP, MEL_FLOOR)


def _images(clean: CleanDigits, levels: Levels, generator: torch.Generator) -> Tensor:
    return add_pixel_noise(clean.images, levels.image_noise, generator).unsqueeze(1)


@dataclass(frozen=True)
class _Stream:
    """How one modality is made."""

    kind: str
    render: Callable[[CleanDigits, Levels, torch.Generator], Tensor]
    recipe: Recipe
    """Of a file; what adds no noise."""
    measure: Callable[[NDArray[np.float16]], tuple[Normalisation, Normalisation]]
    """Mean and standard deviation in stored units, from the train split."""
    origin: Modality
    """Whose files and whose noise it is made of."""


def _overall(train: NDArray[np.float16]) -> tuple[float, float]:
    return float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64))


def _by_channel(train: NDArray[np.float16]) -> tuple[Normalisation, Normalisation]:
    channels = train.astype(np.float64).swapaxes(0, 1).reshape(train.shape[1], -1)
    return tuple(channels.mean(axis=1).tolist()), tuple(channels.std(axis=1).tolist())


def _of_pixels(train: NDArray[np.float16]) -> tuple[float, float]:
    return PIXEL_MEAN, PIXEL_STD


_STREAMS = {
    "audio": _Stream("spectrogram", _spectrograms, SOUND, _overall, "audio"),
    "visual": _Stream("image", _images, PICTURE, _of_pixels, "visual"),
    CONTOUR: _Stream("series", _contours, TRACE, _by_channel, "audio"),
}
MODALITIES: tuple[Modality, ...] = tuple(_STREAMS)
STORED: tuple[Modality, ...] = ("audio", "visual")
"""What is stored unless told otherwise."""


def store_digits(
    directory: Path,
    name: str,
    splits: Mapping[str, CleanDigits],
    levels: Levels,
    settings: Mapping[str, Any],
    tools: Mapping[str, str],
) -> DatasetSpec:
    """Add the noise, write every split and the recipes, and describe the result.

    The random stream of a modality's noise in a split does not depend on what else is stored.

    Parameters
    ----------
    directory
        Where to write.
    name
        The data set's name.
    splits
        Clean samples per split; "train" is one of them.
    levels
        Noise, seed, and what to store.
    settings
        For the description: all settings.
    tools
        For the description: versions.

    Returns
    -------
    What ``dataset.json`` is to say; audio is normalised by the mean and standard deviation of the train
    split as stored, the contour channel by channel.
    """
    arrays = {split: _render(name, split, clean, levels) for split, clean in splits.items()}
    for split, clean in splits.items():
        sources = {modality: clean.sources[_STREAMS[modality].origin] for modality in levels.modalities}
        samples = Samples(clean.ids, clean.labels, clean.groups, sources, arrays[split])
        write_split(directory, split, samples)
    write_recipes(directory, {modality: _STREAMS[modality].recipe for modality in levels.modalities})
    modalities = tuple(_describe(modality, arrays["train"][modality]) for modality in levels.modalities)
    sizes = {split: len(clean.ids) for split, clean in splits.items()}
    return DatasetSpec(name, "classification", CLASSES, modalities, sizes, dict(settings), dict(tools))


def _render(name: str, split: str, clean: CleanDigits, levels: Levels) -> dict[Modality, NDArray[np.float16]]:
    arrays = {}
    for modality in levels.modalities:
        stream = _STREAMS[modality]
        rendered = stream.render(clean, levels, torch_generator(levels.seed, f"{name}/{split}/{stream.origin}-noise"))
        arrays[modality] = rendered.numpy().astype(np.float16)
    return arrays


def _describe(modality: Modality, train: NDArray[np.float16]) -> ModalitySpec:
    stream = _STREAMS[modality]
    mean, std = stream.measure(train)
    return ModalitySpec(modality, stream.kind, train.shape[1:], train.dtype.name, mean, std)
