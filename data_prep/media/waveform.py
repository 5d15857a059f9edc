"""Sound as the waveform itself, for models that hear it: wav2vec2, HuBERT, Whisper's encoder."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_prep.errors import PrepError
from data_prep.media.audio import fit_clip, read_sound
from data_prep.media.resampling import resample
from data_prep.media.segment import Segment
from data_prep.pipeline.plan import MEASURED, Stream
from fedcmi_flwr.types import Modality

RATE_HZ = 16_000
"""What speech models are trained with."""


def decode_waveform(
    path: Path, segment: Segment | None, rate_hz: int, seconds: float, stream: int | None = None
) -> Float32[np.ndarray, "1 samples"]:
    """Return the stored waveform of a file: mono, resampled, cut or padded with silence.

    Parameters
    ----------
    path
        Any file that libsndfile or FFmpeg decodes.
    segment
        Start and end in seconds; None is all of it.
    rate_hz
        To be resampled to.
    seconds
        Stored ones.
    stream
        Number of the sound stream, from 1; None: the one flagged default, else the first.

    Returns
    -------
    [1, samples], in [-1, 1] but for overshoots.

    Raises
    ------
    UnreadableFileError
        No such file, no sound, or a silent one.
    """
    waveform, rate = read_sound(path, segment, seconds=seconds, stream=stream)
    clip = fit_clip(path, resample(waveform, rate, rate_hz), round(seconds * rate_hz))
    return np.ascontiguousarray(clip.unsqueeze(0).numpy(), np.float32)


def waveform_stream(
    name: Modality, seconds: float, track: int | None = None, rate_hz: int = RATE_HZ
) -> Stream:
    """Return the stream of a modality of waveforms; its jobs are those of ``clips.audio_stream``.

    Parameters
    ----------
    name
        Of the modality.
    seconds
        As for :func:`decode_waveform`.
    track
        As its ``stream``.
    rate_hz
        As for :func:`decode_waveform`.

    Returns
    -------
    A series of one channel, float32, normalised by what the train split measures.

    Raises
    ------
    PrepError
        Less than a tenth of a second.
    """
    if not 0.1 <= seconds < math.inf:
        raise PrepError(f"seconds = {seconds}: must be 0.1 or more.")

    recipe = {"maker": "waveform", "rate_hz": rate_hz, "seconds": seconds}
    recipe |= {} if track is None else {"stream": track}
    decode = functools.partial(_decode, rate_hz, seconds, track)

    return Stream(
        name, "series", (1, round(seconds * rate_hz)), "float32", decode, recipe, MEASURED
    )


def _decode(
    rate_hz: int, seconds: float, track: int | None, job: tuple[str, Segment | None, bool]
) -> Any:  # noqa: ANN401
    return decode_waveform(Path(job[0]), job[1], rate_hz, seconds, track)
