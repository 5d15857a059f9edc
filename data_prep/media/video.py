"""Frames of a video, at even times; PyAV.

Where the packets say when each frame is on screen, only what leads from a key frame to a wanted
frame is decoded. Where they do not (AVI with B-frames), or where a decoder cannot begin at such
a place (intra refresh, a start without a key frame), everything is decoded. Only wanted frames
are scaled, and they are turned as the file's display matrix says.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from data_prep.errors import UnreadableFileError
from data_prep.media.container import Scan, choose_stream, opened, scan_packets
from data_prep.media.segment import Segment
from data_prep.pipeline.notes import note

Pixels = UInt8[np.ndarray, "3 size size"]
_DECODED_SHARE = 0.8
"""Of the packets after the first frame that must give a frame where everything is decoded."""


def frames_at_even_times(
    path: Path,
    count: int,
    size: int,
    segment: Segment | None = None,
    *,
    trust_duration: bool = True,
    stream: int | None = None,
) -> UInt8[np.ndarray, "count 3 size size"]:
    """Return the frames on screen at the centres of ``count`` equal parts of a video.

    A part without a frame of its own repeats the one on screen, so that any length gives
    ``count`` frames. Each is stretched to a square (bilinear).

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
    stream
        Number of the video stream, from 1; None: the one flagged default, else the first.

    Returns
    -------
    RGB.

    Raises
    ------
    UnreadableFileError
        No such file, no video, damaged, cut off, or shorter than where the segment starts.
    """
    with opened(path) as container:
        scan = scan_packets(
            path, container, choose_stream(path, container, "video", stream), trust_duration
        )

    if not scan.packets:
        raise UnreadableFileError(path, "holds no video frames; fetch the file again.")

    if scan.has_entries:
        times = sorted(
            packet.pts for packet in scan.packets if packet.is_shown and packet.pts is not None
        )
        wanted = _on_screen(path, scan, times, count, segment)
        with opened(path) as container:
            decoded = _runs_of(
                container, choose_stream(path, container, "video", stream), scan, set(wanted)
            )
            pixels = _keep(
                decoded, lambda place, frame: frame.pts if frame.pts in wanted else None, size
            )

        if not set(wanted) - pixels.keys():
            return np.stack([pixels[pts] for pts in wanted])

    return _of_everything(path, scan, count, size, segment, stream)


def _on_screen(
    path: Path, scan: Scan, times: Sequence[int], count: int, segment: Segment | None
) -> list[int]:
    """Return which of the sorted times are those of the frames on screen at the centres of equal
    parts.
    """
    if not times:
        raise UnreadableFileError(path, "holds no video frames; fetch the file again.")

    first, last = (
        Fraction(times[0]),
        times[-1] + Fraction(times[-1] - times[0], max(len(times) - 1, 1)),
    )
    if segment is not None:
        start, end = (
            (Fraction(time).limit_denominator(10**6) + scan.origin) / scan.time_base
            for time in segment
        )
        if start >= max(last, Fraction(times[-1] + 1)):
            raise UnreadableFileError(
                path,
                f"its last frame is at {scan.seconds(times[-1]):.2f} s, before {segment[0]:g} s; "
                "look at the segment.",
            )

        first, last = max(first, start), min(last, end)

    centres = [first + (last - first) * Fraction(2 * part + 1, 2 * count) for part in range(count)]
    chosen = [times[max(bisect_right(times, centre) - 1, 0)] for centre in centres]
    if len(set(chosen)) < count:
        note(f"of fewer than {count} different frames, some of them repeated")

    return chosen


def _runs(scan: Scan, wanted: set[int]) -> list[range]:
    """Return the packets to decode.

    For each wanted frame, from the key frame before it to itself.
    """
    places = {
        packet.pts: place
        for place, packet in reversed(list(enumerate(scan.packets)))
        if packet.is_shown
    }
    runs: list[range] = []
    for stop in sorted({places[pts] for pts in wanted}):
        start = _key_before(scan, stop)
        if runs and start < runs[-1].stop:
            runs[-1] = range(runs[-1].start, stop + 1)
        else:
            runs.append(range(start, stop + 1))

    return runs


def _key_before(scan: Scan, place: int) -> int:
    """Return the place of the last key frame that is neither decoded nor shown after a frame."""
    shown = scan.packets[place].pts or 0
    for earlier in range(place, 0, -1):
        if scan.packets[earlier].is_key and (scan.packets[earlier].pts or 0) <= shown:
            return earlier

    return 0


def _runs_of(
    container: InputContainer, stream: VideoStream, scan: Scan, wanted: set[int]
) -> Iterator[VideoFrame]:
    """Decode the runs of packets that lead to the wanted frames."""
    decoder = stream.codec_context
    decoder.thread_count = 1
    packets = enumerate(packet for packet in container.demux(stream) if packet.size)
    for run in _runs(scan, wanted):
        for place, packet in packets:
            if place in run:
                # what no other frame refers to is decoded only where it is wanted
                decoder.skip_frame = (
                    "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
                )
                yield from decoder.decode(packet)

            if place == run.stop - 1:
                break

        yield from decoder.decode(None)
        decoder.flush_buffers()


def _of_everything(
    path: Path, scan: Scan, count: int, size: int, segment: Segment | None, stream: int | None
) -> UInt8[np.ndarray, "count 3 size size"]:
    """Decode the whole video twice: for the times of its frames, and for those that are wanted."""
    with opened(path) as container:
        chosen = choose_stream(path, container, "video", stream)
        rate = chosen.average_rate or chosen.guessed_rate or Fraction(25)
        found = [(frame.pts, frame.is_corrupt) for frame in _every(container, chosen)]

    usable = [place for place, (_, is_corrupt) in enumerate(found) if not is_corrupt]
    if len(usable) < _DECODED_SHARE * max(len(found), _after_first(scan)):
        raise UnreadableFileError(
            path,
            f"damaged: of {len(scan.packets)} frames {len(usable)} can be decoded; fetch the file "
            "again.",
        )

    stamps = {place: found[place][0] for place in usable}
    known = [stamp for stamp in stamps.values() if stamp is not None]
    is_rising = all(earlier < later for earlier, later in itertools.pairwise(known))
    if not scan.tells_all_times or len(known) < len(stamps) or not is_rising:
        # Frames are counted instead
        stamps = {place: round(place / rate / scan.time_base) for place in usable}
        known = [stamp for stamp in stamps.values() if stamp is not None]

    wanted = _on_screen(path, scan, known, count, segment)
    chosen_places = {place: stamp for place, stamp in stamps.items() if stamp in wanted}
    with opened(path) as container:
        decoded = _every(container, choose_stream(path, container, "video", stream))
        pixels = _keep(decoded, lambda place, frame: chosen_places.get(place), size)

    return np.stack([pixels[stamp] for stamp in wanted])


def _after_first(scan: Scan) -> int:
    """Return how many packets there are from the first key frame on."""
    keys = [place for place, packet in enumerate(scan.packets) if packet.is_key]
    return len(scan.packets) - keys[0] if keys else 0


def _every(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    stream.codec_context.thread_count = 1
    for packet in container.demux(stream):
        yield from packet.decode()


def _keep(
    frames: Iterator[VideoFrame], key: Callable[[int, VideoFrame], int | None], size: int
) -> dict[int, Pixels]:
    """Return frames as they are stored, by what ``key`` says of a frame and its place.

    None: it is not wanted.
    """
    reformatter = VideoReformatter()
    kept: dict[int, Pixels] = {}
    for place, frame in enumerate(frames):
        name = key(place, frame)
        if name is not None and name not in kept and not frame.is_corrupt:
            scaled = reformatter.reformat(
                frame, size, size, "rgb24", interpolation="BILINEAR", threads=1
            )
            kept[name] = _upright(scaled.to_ndarray(), frame).transpose(2, 0, 1)

    return kept


def _upright(
    pixels: UInt8[np.ndarray, "size size 3"], frame: VideoFrame
) -> UInt8[np.ndarray, "size size 3"]:
    """Turn and mirror a square by a display matrix: x' = a x + c y, y' = b x + d y, y downwards."""
    found = [bytes(each) for each in _side_data(frame) if each.type == SideData.DISPLAYMATRIX]
    if not found:
        return pixels

    a, b, _, c, d = np.frombuffer(found[0], np.int32)[:5]
    if abs(b) > abs(a):  # lies on its side
        pixels, a, d = pixels.transpose(1, 0, 2), c, b

    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _side_data(frame: VideoFrame) -> list[Any]:
    container: Any = frame.side_data  # by place, which its own types do not say
    return [container[place] for place in range(len(container))]
