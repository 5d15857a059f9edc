"""A file as FFmpeg opens it: which of its streams is meant, and whether the file is whole.

The packets are read once without decoding anything. That gives every frame's real time, whatever
the header states or leaves out, and shows whether the file is cut off. Times are seconds since
the start of the file.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from data_prep.errors import UnreadableFileError
from data_prep.media.container_size import check_container_whole
from data_prep.media.signature import true_reason

_THUMBNAIL = Disposition.attached_pic | Disposition.timed_thumbnails
_MEASURED = (
    "mov",
    "matroska",
    "flv",
    "avi",
    "asf",
    "wav",
    "aiff",
    "flac",
    "caf",
    "au",
    "w64",
    "mxf",
    "wv",
    "tta",
)
"""Formats that state how long they are; of all others FFmpeg guesses it from the bit rate."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a file, and say in our words what FFmpeg finds wrong with it meanwhile."""
    if not path.is_file():
        raise UnreadableFileError(path, "not found; complete the raw archive.")
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        reason = f"not decodable ({error.strerror}); fetch the file again."
        raise UnreadableFileError(path, true_reason(path, reason)) from error


def choose_stream(
    path: Path, container: InputContainer, kind: str, number: int | None = None
) -> Any:  # noqa: ANN401 (one of PyAV's two kinds)
    """Return the stream that is meant.

    The chosen one, else the one flagged default, else the first; no thumbnail.

    Parameters
    ----------
    path
        The file, for the error.
    container
        The same, open.
    kind
        "video" or "audio".
    number
        Of the stream among those of its kind, from 1; None: not chosen.

    Returns
    -------
    The stream.

    Raises
    ------
    UnreadableFileError
        There is no such stream.
    """
    streams = [
        each
        for each in container.streams
        if each.type == kind and not each.disposition & _THUMBNAIL
    ]
    if not streams and kind == "video":
        raise UnreadableFileError(path, "holds no video; give another file, or leave it out.")
    if not streams:
        raise UnreadableFileError(
            path,
            "holds no sound: no sound file, and no video with a soundtrack; give another file, "
            "or leave it out.",
        )
    if number is not None and number > len(streams):
        raise UnreadableFileError(
            path, f"has {len(streams)} {kind} streams, asked for number {number}."
        )

    default = [each for each in streams if each.disposition & Disposition.default]
    chosen: Any = (default or streams)[0] if number is None else streams[number - 1]
    if chosen.codec_context is None:
        raise UnreadableFileError(
            path, f"its {kind} is in a codec that FFmpeg does not know; convert it."
        )

    return chosen


@dataclass(frozen=True)
class Packet:
    """One frame, encoded; in the file's order, which is the decoder's."""

    pts: int | None
    """When it is on screen, in units of the stream's time base; None: the file does not say."""
    is_key: bool
    is_shown: bool
    """False for what an edit list cuts away."""


@dataclass(frozen=True)
class Scan:
    """The packets of one stream."""

    packets: Sequence[Packet]
    time_base: Fraction
    """Seconds."""
    origin: Fraction
    """Where the file's clock starts, in seconds."""

    def seconds(self, pts: int) -> float:
        """Return a time stamp as seconds since the start of the file."""
        return float(pts * self.time_base - self.origin)

    @property
    def tells_all_times(self) -> bool:
        """Whether every frame has a time of its own."""
        times = {packet.pts for packet in self.packets}
        return None not in times and len(times) == len(self.packets)

    @property
    def has_entries(self) -> bool:
        """Whether frames can be decoded from key frames on, without what is before."""
        return self.tells_all_times and self.packets[0].is_key


def check_packets(path: Path, container: InputContainer, trust_duration: bool) -> None:
    """Read all packets, keep and decode none; refuse a file that is cut off.

    Parameters
    ----------
    path
        The file, for errors.
    container
        The same, newly opened.
    trust_duration
        Whether a file that ends well before its stated duration counts as cut off.

    Raises
    ------
    UnreadableFileError
        A packet that is not whole, or an early end.
    """
    for _ in _whole_packets(path, container, trust_duration):
        pass


def scan_packets(
    path: Path, container: InputContainer, stream: Stream, trust_duration: bool
) -> Scan:
    """Return the packets of a stream, without their content; checked as by :func:`check_packets`.

    Parameters
    ----------
    path
        As for :func:`check_packets`.
    container
        As for :func:`check_packets`.
    stream
        Whose packets to return; those of others only show where the file ends.
    trust_duration
        As for :func:`check_packets`.

    Returns
    -------
    The packets of the stream.
    """
    packets: list[Packet] = []
    # When frames are shown in another order, FFmpeg guesses the times
    states_no_order = container.format.name == "avi"
    for packet in _whole_packets(path, container, trust_duration):
        if packet.stream_index == stream.index:
            is_guess = states_no_order and packet.pts != packet.dts
            packets.append(
                Packet(None if is_guess else packet.pts, packet.is_keyframe, not packet.is_discard)
            )

    origin = Fraction(container.start_time or 0, av.time_base)

    return Scan(packets, stream.time_base or Fraction(1), origin)


def _whole_packets(path: Path, container: InputContainer, trust_duration: bool) -> Iterator[Any]:
    """Yield the packets of all streams but thumbnails.

    UnreadableFileError where, or after which, the file is cut.
    """
    check_container_whole(path)
    end = 0.0
    for packet in container.demux():
        if not packet.size or packet.stream.disposition & _THUMBNAIL:
            continue
        if packet.is_corrupt:
            raise UnreadableFileError(
                path, "cut off or damaged: a packet is not whole; fetch the file again."
            )

        time = packet.dts if packet.pts is None else packet.pts
        if time is not None and packet.time_base is not None:
            end = max(end, float((time + (packet.duration or 0)) * packet.time_base))

        yield packet

    reached = end - float(Fraction(container.start_time or 0, av.time_base))
    stated = (container.duration or 0) / av.time_base
    trusted = trust_duration and container.format.name.split(",")[0] in _MEASURED
    if trusted and reached < 0.8 * stated - 0.5:
        raise UnreadableFileError(
            path,
            f"cut off: ends at {reached:.2f} s, its header says {stated:.2f} s; fetch the file "
            "again.",
        )
