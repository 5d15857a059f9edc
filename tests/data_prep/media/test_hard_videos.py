"""data_prep.media.video on files whose packets do not say all.

The frames must be those of a full decode.
"""

from fractions import Fraction
from pathlib import Path

import av
import media
import numpy as np
import pytest

from data_prep.media.soundtrack import read_soundtrack
from data_prep.media.video import frames_at_even_times

FRAMES = 39
VOP = b"\x00\x00\x01\xb6"
NOT_CODED = VOP + b"\x50\x00"
"""An MPEG-4 frame that repeats the one before it."""
MPEG4_B_FRAMES = {"bf": "2", "g": "12"}
INTRA_REFRESH = {
    "x264-params": "intra-refresh=1:keyint=12:bframes=0:scenecut=0",
    "preset": "ultrafast",
}


def pictures(frames: int) -> list[av.VideoFrame]:
    """Return frames that differ in every part."""
    found = []
    for number in range(frames):
        picture = np.full((48, 64, 3), media.level(number), np.uint8)
        picture[24:] = np.roll(np.arange(64) * 4, 5 * number)[None, :, None]
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        found.append(frame)
    return found


def write(path: Path, codec: str, options: dict[str, str], rotation: int = 0) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 600_000
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in [*pictures(FRAMES), None]:
            container.mux(stream.encode(frame))


def write_packed(path: Path) -> None:
    """Write an AVI as DivX and XviD do.

    A frame and the one shown before it in one packet, and an empty one later.
    """
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.bit_rate = 64, 48, "yuv420p", 600_000
    encoder.time_base, encoder.framerate, encoder.options = (
        Fraction(1, 10),
        Fraction(10),
        MPEG4_B_FRAMES,
    )
    packets = [
        bytes(packet) for frame in [*pictures(FRAMES), None] for packet in encoder.encode(frame)
    ]
    is_between = [packet[packet.index(VOP) + 4] >> 6 == 2 for packet in packets]
    head = packets[0].index(VOP)
    chunks = [packets[0][:head] + b"\x00\x00\x01\xb2DivX503b1393p" + packets[0][head:]]
    waits = False  # whether an empty packet is due
    for place in range(1, len(packets)):
        if is_between[place] and not is_between[place - 1]:
            chunks[-1] += packets[place]
            waits = True
            continue
        if not is_between[place] and waits:
            chunks.append(NOT_CODED)
            waits = False
        chunks.append(packets[place])
    chunks += [NOT_CODED] * waits
    assert len(chunks) == FRAMES
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.dts, packet.pts, packet.time_base = (
                stream,
                number,
                number,
                Fraction(1, 10),
            )
            packet.is_keyframe = number == 0
            container.mux(packet)


def fully_decoded(path: Path, size: int = 24) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [
            frame.reformat(size, size, "rgb24").to_ndarray() for frame in container.decode(video=0)
        ]
    return np.stack(frames).transpose(0, 3, 1, 2)


def places(frames: int, count: int) -> list[int]:
    """Return which frames are on screen at the centres of equal parts."""
    return [frames * (2 * part + 1) // (2 * count) for part in range(count)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("packed.avi", "", {}),
        ("mpeg4.avi", "mpeg4", MPEG4_B_FRAMES),
        ("x264.avi", "libx264", {"bf": "3", "g": "12"}),
        ("raw.h264", "libx264", {"bf": "2", "g": "12"}),
        ("program.mpg", "mpeg2video", MPEG4_B_FRAMES),
        ("refresh.mkv", "libx264", INTRA_REFRESH),
        ("refresh.ts", "libx264", INTRA_REFRESH),
        ("open.mkv", "mpeg2video", MPEG4_B_FRAMES),
        ("vp9.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime"}),
    ],
)
def test_frames_are_those_of_decoding_everything(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    if codec:
        write(path, codec, options)
    else:
        write_packed(path)
    every = fully_decoded(path)
    assert len(every) >= FRAMES - 1
    for count in (1, 2, 3, 4, 7, 10, 16, 25, 38, 39):
        found = frames_at_even_times(path, count, 24)
        np.testing.assert_array_equal(
            found, every[places(len(every), count)], err_msg=f"{count} frames"
        )


def test_a_stream_that_begins_between_key_frames_begins_with_the_first_one(tmp_path: Path) -> None:
    """Cut at a packet of 188 bytes after a third of a transport stream, as a recording from the air
    begins.
    """
    whole = tmp_path / "whole.ts"
    write(whole, "libx264", {"g": "12", "bf": "0", "x264-params": "scenecut=0"})
    content = whole.read_bytes()
    (tmp_path / "cut.ts").write_bytes(
        content[: 3 * 188] + content[len(content) // 188 // 3 * 188 :]
    )
    every = fully_decoded(tmp_path / "cut.ts")
    assert 12 <= len(every) < FRAMES
    found = frames_at_even_times(tmp_path / "cut.ts", 4, 24)
    np.testing.assert_array_equal(found, every[places(len(every), 4)])


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_a_video_of_a_turned_telephone_is_stored_upright(
    tmp_path: Path, degrees: int, turns: int
) -> None:
    write(tmp_path / "plain.mp4", "libx264", {"g": "12"})
    write(tmp_path / "turned.mp4", "libx264", {"g": "12"}, rotation=degrees)
    plain = frames_at_even_times(tmp_path / "plain.mp4", 3, 32)
    turned = frames_at_even_times(tmp_path / "turned.mp4", 3, 32)
    np.testing.assert_array_equal(turned, np.rot90(plain, turns, axes=(2, 3)))


def test_cover_art_is_no_video_and_does_not_spoil_the_sound(tmp_path: Path) -> None:
    """An MP4 of sound alone, with a picture that is flagged as attached."""
    path = tmp_path / "song.mka"
    media.write_video(tmp_path / "v.mp4", 20, "mpeg4", sound=media.tone(2, 44100, 300))
    plain, rate = read_soundtrack(tmp_path / "v.mp4")
    with (
        av.open(str(tmp_path / "v.mp4")) as source,
        av.open(str(path), "w", format="matroska") as container,
    ):
        sound = container.add_stream_from_template(source.streams.audio[0])
        art = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 64, 48, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        for packet in art.encode(pictures(1)[0].reformat(format="yuvj420p")):
            container.mux(packet)
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                container.mux(packet)
    found, found_rate = read_soundtrack(path)
    assert found_rate == rate
    assert abs(len(found) - len(plain)) < 2048
