"""What the sets of short audio-visual clips share: how their two modalities are stored."""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8

from data_prep.errors import PrepError
from data_prep.media.audio import log_spectrogram, read_sound, spectrogram_shape
from data_prep.media.segment import Segment
from data_prep.media.video import frames_at_even_times
from data_prep.pipeline.plan import Stream
from fedcmi_flwr.types import Modality

MODALITIES = ("audio", "visual")
FRAME_SIZE = 256
"""Pixels that frames are stored with by default; training views of 224 are cut from them."""
IMAGENET_MEAN_STD = (
    tuple(255 * value for value in (0.485, 0.456, 0.406)),
    tuple(255 * value for value in (0.229, 0.224, 0.225)),
)
"""Per channel, for frames of 0 to 255."""
TOOLS = ("numpy", "torch", "torchaudio", "soundfile", "av")

Job = tuple[str, Segment | None, bool]
"""File; segment, None for a whole file (sound: a WAV file); whether the duration in a video's
header can be trusted."""


def audio_stream(name: Modality, seconds: float, track: int | None = None) -> Stream:
    """Describe how sound is stored.

    Parameters
    ----------
    name
        Of the modality.
    seconds
        What a clip is tiled to.
    track
        Number of the sound stream of files that have several, from 1; None: the one flagged
        default, else the first.

    Returns
    -------
    Standardised log spectrograms, made of ``Job``.
    """
    recipe = {"maker": "log-spectrogram", "seconds": seconds} | (
        {} if track is None else {"stream": track}
    )
    decode = partial(_spectrogram, seconds, track)
    return Stream(name, "spectrogram", spectrogram_shape(seconds), "float16", decode, recipe)


def visual_stream(name: Modality, count: int, frame_size: int, track: int | None = None) -> Stream:
    """Describe how a video is stored.

    Parameters
    ----------
    name
        Of the modality.
    count
        Frames, at even times.
    frame_size
        Pixels of a frame's width and height.
    track
        As for :func:`audio_stream`, of the video streams.

    Returns
    -------
    RGB frames, made of ``Job``.

    Raises
    ------
    PrepError
        Frames of less than 16 pixels.
    """
    if frame_size < 16:
        raise PrepError(f"frame_size = {frame_size}: must be 16 pixels or more.")

    shape = (count, 3, frame_size, frame_size)
    recipe = {"maker": "video-frames", "count": count, "size": frame_size}
    recipe |= {} if track is None else {"stream": track}
    decode = partial(_frames, count, frame_size, track)

    return Stream(name, "frames", shape, "uint8", decode, recipe, IMAGENET_MEAN_STD)


def _spectrogram(
    seconds: float, track: int | None, job: Job
) -> Float16[np.ndarray, "1 frequencies windows"]:
    path, segment = Path(job[0]), job[1]
    waveform, rate = read_sound(path, segment, seconds=seconds, stream=track)
    return log_spectrogram(path, waveform, rate, seconds)


def _frames(
    count: int, size: int, track: int | None, job: Job
) -> UInt8[np.ndarray, "count 3 size size"]:
    path, segment, trust_duration = job
    return frames_at_even_times(
        Path(path), count, size, segment, trust_duration=trust_duration, stream=track
    )
