"""Video from file to stored array: frames at even times, and the soundtrack; PyAV.

The packets of a file are read once without decoding anything. That gives every frame's real time, whatever the header
states or leaves out, and shows whether the file is whole. Then only what leads from a key frame to a wanted frame is
decoded, and only wanted frames are converted and scaled. Times are seconds since the start of the file.
"""

import contextlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8
from torch import Tensor

from data_prep.errors import UnreadableFileError

Segment = tuple[float, float]
"""Start and end in seconds since the start of the file."""

_PREROLL = 0.5
"""Seconds of sound decoded before a segment, for codecs whose packets overlap."""


def frames_at_even_times(
    path: Path, count: int, size: int, segment: Segment | None = None, *, trust_duration: bool = True
) -> UInt8[np.ndarray, "count 3 size size"]:
    """Return the frames on screen at the centres of ``count`` equal parts of a video.

    A part without a frame of its own repeats the one on screen, so that any length gives ``count`` frames. Each is
    stretched to a square (bilinear).

    Parameters
    ----------
    path
        Any file that FFmpeg decodes.
    count
        Wanted frames, 1 or more.
    size
        Width and height of the result in pixels.
    segment
        What is divided, as far as the video reaches; None is the whole video.
    trust_duration
        Whether a video that ends well before its stated duration counts as cut off.

    Returns
    -------
    RGB.

    Raises
    ------
    UnreadableFileError
        No such file, no video, damaged, cut off, or shorter than where the segment starts.
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise UnreadableFileError(path, "holds no video; fetch the file again.")
        scan = _scan(path, container, trust_duration)
    wanted = scan.on_screen(path, count, segment)
    with _opened(path) as container:
        pixels = _decode(container, scan.runs(wanted), set(wanted), size)
    missing = [f"{scan.seconds(pts):.2f} s" for pts in sorted(set(wanted) - pixels.keys())]
    if missing:
        raise UnreadableFileError(path, f"frames at {', '.join(missing)} cannot be decoded; fetch the file again.")
    return np.stack([pixels[pts] for pts in wanted])


def read_soundtrack(path: Path, segment: Segment | None = None) -> tuple[Float[Tensor, " samples"], int]:
    """Return the sound of a video file, channels averaged to mono.

    Parameters
    ----------
    path
        Any file that FFmpeg decodes.
    segment
        What is wanted, as far as the sound reaches; only this is decoded. None is all of it.

    Returns
    -------
    The waveform [samples], float32, and its rate in Hz.

    Raises
    ------
    UnreadableFileError
        No such file, no sound in it or in the segment, damaged, or cut off.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            raise UnreadableFileError(
                path,
                "holds no sound: no sound file, and no video with a soundtrack; give another file, or leave it out.",
            )
        _scan(path, container, trust_duration=True)
    start, end = segment or (0.0, math.inf)
    with _opened(path) as container:
        waveform, rate = _decode_sound(path, container, start, end)
    if not len(waveform):
        raise UnreadableFileError(path, f"holds no sound from {start:g} s to {end:g} s; look at the segment.")
    if not bool(waveform.isfinite().all()):
        raise UnreadableFileError(path, "its sound is infinite or not a number in places; fetch the file again.")
    return waveform, rate


def has_sound(path: Path) -> bool:
    """Return whether a file has a soundtrack; UnreadableFileError if FFmpeg cannot open it."""
    with _opened(path) as container:
        return bool(container.streams.audio)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a file, and say in our words what FFmpeg finds wrong with it meanwhile."""
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the raw archive.")
    try:
        with av.open(str(path.absolute())) as container:
            yield container
    except av.FFmpegError as error:
        raise UnreadableFileError(path, f"not decodable ({error.strerror}); fetch the file again.") from error


@dataclass(frozen=True)
class _Packet:
    """One frame, encoded; in the file's order, which is the decoder's."""

    pts: int
    """When it is on screen, in units of the stream's time base."""
    is_key: bool
    is_shown: bool
    """False for what an edit list cuts away."""


@dataclass(frozen=True)
class _Scan:
    """The video packets of a file."""

    packets: Sequence[_Packet]
    time_base: Fraction
    """Seconds."""
    origin: Fraction
    """Where the file's clock starts, in seconds."""

    def seconds(self, pts: int) -> float:
        """Return a time stamp as seconds since the start of the file."""
        return float(pts * self.time_base - self.origin)

    def on_screen(self, path: Path, count: int, segment: Segment | None) -> list[int]:
        """Return the time stamps of the frames on screen at the centres of equal parts."""
        shown = sorted(packet.pts for packet in self.packets if packet.is_shown)
        if not shown:
            raise UnreadableFileError(path, "holds no video frames; fetch the file again.")
        first, last = Fraction(shown[0]), shown[-1] + Fraction(shown[-1] - shown[0], max(len(shown) - 1, 1))
        if segment is not None:
            start, end = ((Fraction(time).limit_denominator(10**6) + self.origin) / self.time_base for time in segment)
            if start >= max(last, Fraction(shown[-1] + 1)):
                ends = self.seconds(shown[-1])
                raise UnreadableFileError(
                    path, f"its last frame is at {ends:.2f} s, before {segment[0]:g} s; look at the segment."
                )
            first, last = max(first, start), min(last, end)
        centres = [first + (last - first) * Fraction(2 * part + 1, 2 * count) for part in range(count)]
        return [shown[max(bisect_right(shown, centre) - 1, 0)] for centre in centres]

    def runs(self, wanted: Sequence[int]) -> list[range]:
        """Return the packets to decode: for each wanted frame, from the key frame before it to itself."""
        places = {packet.pts: place for place, packet in reversed(list(enumerate(self.packets))) if packet.is_shown}
        runs: list[range] = []
        for stop in sorted({places[pts] for pts in wanted}):
            start = self._key_before(stop)
            if runs and start < runs[-1].stop:
                runs[-1] = range(runs[-1].start, stop + 1)
            else:
                runs.append(range(start, stop + 1))
        return runs

    def _key_before(self, place: int) -> int:
        """Return the place of the last key frame that is neither decoded nor shown after a frame."""
        for earlier in range(place, 0, -1):
            if self.packets[earlier].is_key and self.packets[earlier].pts <= self.packets[place].pts:
                return earlier
        return 0


def _scan(path: Path, container: InputContainer, trust_duration: bool) -> _Scan:
    """Read all packets, of sound too, and decode none; refuse a file that is cut off."""
    video = container.streams.video[0] if container.streams.video else None
    packets: list[_Packet] = []
    ends = dict.fromkeys(range(len(container.streams)), 0)
    for packet in container.demux():
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise UnreadableFileError(path, "cut off or damaged: a packet is not whole; fetch the file again.")
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is not None:
            ends[packet.stream_index] = max(ends[packet.stream_index], pts + (packet.duration or 0))
        if video is not None and packet.stream_index == video.index:
            if pts is None:
                raise UnreadableFileError(path, "its frames have no times; convert it to MP4.")
            packets.append(_Packet(pts, packet.is_keyframe, not packet.is_discard))
    origin = Fraction(container.start_time or 0, av.time_base)
    end = float(max(ends[stream.index] * (stream.time_base or 0) for stream in container.streams) - origin)
    stated = (container.duration or 0) / av.time_base
    if trust_duration and end < 0.8 * stated - 0.5:
        raise UnreadableFileError(
            path, f"cut off: ends at {end:.2f} s, its header says {stated:.2f} s; fetch the file again."
        )
    time_base = Fraction(1) if video is None or video.time_base is None else video.time_base
    return _Scan(packets, time_base, origin)


def _decode(
    container: InputContainer, runs: Sequence[range], wanted: set[int], size: int
) -> dict[int, UInt8[np.ndarray, "3 size size"]]:
    """Decode runs of packets, and return the wanted frames by their time stamps."""
    stream = container.streams.video[0]
    decoder = stream.codec_context
    decoder.thread_count = 1
    reformatter = VideoReformatter()
    pixels: dict[int, UInt8[np.ndarray, "3 size size"]] = {}

    def keep(frames: Sequence[VideoFrame]) -> None:
        for frame in frames:
            if frame.pts in wanted and frame.pts not in pixels and not frame.is_corrupt:
                scaled = reformatter.reformat(frame, size, size, "rgb24", interpolation="BILINEAR", threads=1)
                pixels[frame.pts] = scaled.to_ndarray().transpose(2, 0, 1)

    packets = enumerate(packet for packet in container.demux(stream) if packet.size)
    for run in runs:
        for place, packet in packets:
            if place in run:
                # what no other frame refers to is decoded only where it is wanted
                decoder.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
                keep(decoder.decode(packet))
            if place == run.stop - 1:
                break
        keep(decoder.decode(None))
        decoder.flush_buffers()
    return pixels


def _decode_sound(
    path: Path, container: InputContainer, start: float, end: float
) -> tuple[Float[Tensor, " samples"], int]:
    """Decode the sound of a segment; return it and its rate."""
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    origin = (container.start_time or 0) / av.time_base
    if start > _PREROLL:
        container.seek(int((start - _PREROLL + origin) * av.time_base))
    fifo, begin = av.AudioFifo(), 0.0
    for frame in container.decode(stream):
        if not fifo.samples_written:
            begin = 0.0 if frame.time is None else frame.time - origin
        frame.pts = None  # from the first one on, samples are counted
        try:
            fifo.write(frame)
        except ValueError as error:
            raise UnreadableFileError(
                path, f"its sound changes its format on the way ({error}); convert it."
            ) from error
        if begin + fifo.samples_written / stream.rate >= end:
            break
    whole = fifo.read()
    if whole is None:
        return torch.zeros(0), stream.rate
    (planar,) = av.AudioResampler(format="fltp").resample(whole)
    waveform = torch.from_numpy(planar.to_ndarray()).mean(dim=0)
    skip = max(round((start - begin) * whole.rate), 0)
    wanted = len(waveform) if math.isinf(end) else max(round((end - max(start, begin)) * whole.rate), 0)
    return waveform[skip : skip + wanted], whole.rate
