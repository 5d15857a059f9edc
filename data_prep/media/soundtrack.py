"""Sound that FFmpeg decodes: soundtracks of videos, and sound files that libsndfile does not take.

PyAV.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float
from torch import Tensor

from data_prep.errors import UnreadableFileError
from data_prep.media.container import check_packets, choose_stream, opened
from data_prep.media.segment import Segment

_PREROLL = 0.5
"""Seconds of sound decoded before a segment, for codecs whose packets overlap."""


def read_soundtrack(
    path: Path, segment: Segment | None = None, stream: int | None = None
) -> tuple[Float[Tensor, " samples"], int]:
    """Return the sound of a file, channels averaged to mono.

    Parameters
    ----------
    path
        Any file that FFmpeg decodes.
    segment
        What is wanted, as far as the sound reaches; only this is decoded. None is all of it.
    stream
        Number of the sound stream, from 1; None: the one flagged default, else the first.

    Returns
    -------
    The waveform [samples], float32, and its rate in Hz.

    Raises
    ------
    UnreadableFileError
        No such file, no sound in it or in the segment, damaged, or cut off.
    """
    with opened(path) as container:
        check_packets(path, container, trust_duration=True)

    start, end = segment or (0.0, math.inf)
    with opened(path) as container:
        chosen = choose_stream(path, container, "audio", stream)
        waveform, rate = _decode_sound(path, container, chosen, start, end)

    if not len(waveform):
        raise UnreadableFileError(
            path, f"holds no sound from {start:g} s to {end:g} s; look at the segment."
        )
    if not bool(waveform.isfinite().all()):
        raise UnreadableFileError(
            path, "its sound is infinite or not a number in places; fetch the file again."
        )

    return waveform, rate


def has_sound(path: Path) -> bool:
    """Return whether a file has a soundtrack; UnreadableFileError if FFmpeg cannot open it."""
    with opened(path) as container:
        return bool(container.streams.audio)


def _decode_sound(
    path: Path,
    container: InputContainer,
    stream: AudioStream,
    start: float,
    end: float,
) -> tuple[Float[Tensor, " samples"], int]:
    """Decode the sound of a segment; return it and its rate."""
    stream.codec_context.thread_count = 1
    origin = (container.start_time or 0) / av.time_base
    if start > _PREROLL:
        container.seek(int((start - _PREROLL + origin) * av.time_base))

    fifo, begin, before = av.AudioFifo(), 0.0, 0
    frames: Iterator[Any] = container.decode(stream)
    for frame in frames:
        if not fifo.samples_written:
            begin = 0.0 if frame.time is None else frame.time - origin

        frame.pts = None  # from the first one on, samples are counted
        try:
            fifo.write(frame)
        except ValueError as error:
            raise UnreadableFileError(
                path, f"its sound changes its format on the way ({error}); convert it."
            ) from error

        reached = begin + fifo.samples_written / stream.rate
        if reached < start:  # a file in which nothing can be sought is decoded from its beginning
            before += fifo.samples
            fifo.read()

        if reached >= end:
            break

    whole = fifo.read()
    if whole is None:
        return torch.zeros(0), stream.rate

    (planar,) = av.AudioResampler(format="fltp").resample(whole)
    waveform = torch.from_numpy(planar.to_ndarray()).mean(dim=0)
    skip = max(round((start - begin) * whole.rate) - before, 0)
    wanted = (
        len(waveform) if math.isinf(end) else max(round((end - max(start, begin)) * whole.rate), 0)
    )

    return waveform[skip : skip + wanted], whole.rate
