"""data_prep.media.video on real files: which frames, which samples, and what is refused."""

from pathlib import Path

import av
import media
import numpy as np
import pytest

from data_prep.errors import UnreadableFileError
from data_prep.media.soundtrack import read_soundtrack
from data_prep.media.video import frames_at_even_times

CODECS = {"flv1": "v.flv", "mpeg4": "v.mp4", "libx264": "v.mov"}


def numbers(pixels: np.ndarray) -> list[int]:
    return [media.frame_number(frame) for frame in pixels]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("frames", "count", "segment", "expected"),
    [
        (30, 3, None, [5, 15, 25]),  # 3 s: centres 0.5, 1.5, 2.5
        (25, 3, None, [4, 12, 20]),  # 2.5 s: 0.4167, 1.25, 2.083
        (45, 4, (1.0, 3.0), [12, 17, 22, 27]),  # centres 1.25, 1.75, ...
        (40, 4, (2.0, 9.0), [22, 27, 32, 37]),  # only as far as the video reaches
        (2, 5, None, [0, 0, 1, 1, 1]),  # 0.02, 0.06, 0.1, 0.14, 0.18
        (1, 3, None, [0, 0, 0]),
    ],
)
def test_frames_are_those_on_screen_at_the_centres_of_equal_parts(
    tmp_path: Path,
    codec: str,
    frames: int,
    count: int,
    segment: tuple[float, float] | None,
    expected: list[int],
) -> None:
    """10 frames a second; H.264 has frames in another order in the file."""
    path = tmp_path / CODECS[codec]
    media.write_video(path, frames, codec)
    pixels = frames_at_even_times(path, count, 32, segment)
    assert pixels.shape == (count, 3, 32, 32)
    assert pixels.dtype == np.uint8
    assert numbers(pixels) == [number % 26 for number in expected]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("gop", [1, 7, 100])
def test_frames_are_those_of_decoding_everything(tmp_path: Path, codec: str, gop: int) -> None:
    path = tmp_path / CODECS[codec]
    media.write_video(path, 44, codec, gop=gop)
    with av.open(str(path)) as container:
        every = [
            frame.reformat(24, 24, "rgb24").to_ndarray().transpose(2, 0, 1)
            for frame in container.decode(video=0)
        ]
    pixels = frames_at_even_times(path, 11, 24)
    assert np.array_equal(pixels, np.stack(every)[2::4])  # centres at 0.2, 0.6, ... s


def test_channels_are_red_green_blue_and_rows_run_downwards(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.flv", 3, colour=(200, 60, 30))
    frame = frames_at_even_times(tmp_path / "v.flv", 1, 32)[0].astype(int)
    assert np.abs(frame[:, 24, 16] - [200, 60, 30]).max() < 8
    assert np.abs(frame[:, 8, 16] - media.level(1)).max() < 4


def test_a_video_without_a_stated_duration(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.flv", 30)
    media.forget_duration(tmp_path / "v.flv")
    assert numbers(frames_at_even_times(tmp_path / "v.flv", 3, 32)) == [5, 15, 25]


def test_a_minute_long_video(tmp_path: Path) -> None:
    """Centres 10, 30 and 50 s are frames 100, 300 and 500; levels repeat after 26 frames."""
    media.write_video(tmp_path / "v.flv", 600)
    assert numbers(frames_at_even_times(tmp_path / "v.flv", 3, 32)) == [
        100 % 26,
        300 % 26,
        500 % 26,
    ]
    assert numbers(frames_at_even_times(tmp_path / "v.flv", 2, 32, (50.9, 51.3))) == [
        510 % 26,
        512 % 26,
    ]


def test_sound_of_a_segment_is_the_sound_at_that_time(tmp_path: Path) -> None:
    """A tone that changes every second: 200, 300, 400, ... Hz."""
    sound = np.concatenate(
        [media.tone(1, 44100, 200 + 100 * second, noise=0) for second in range(6)]
    )
    media.write_video(tmp_path / "v.mp4", 60, "mpeg4", sound=sound)
    for second in range(1, 5):
        waveform, rate = read_soundtrack(tmp_path / "v.mp4", (second + 0.25, second + 0.75))
        assert (waveform.shape, rate) == ((22050,), 44100)
        spectrum = np.abs(np.fft.rfft(waveform.numpy()))
        assert np.argmax(spectrum) * 2 == 200 + 100 * second  # bins of 2 Hz
        assert waveform.abs().max() == pytest.approx(0.4, abs=0.08)
    begin, _ = read_soundtrack(tmp_path / "v.mp4", (2.75, 3.25))
    at_change = [np.argmax(np.abs(np.fft.rfft(part))) * 4 for part in begin.numpy().reshape(2, -1)]
    assert at_change == [400, 500]


def test_whole_sound_and_a_segment_past_its_end(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.mp4", 30, "mpeg4", sound=media.tone(3, 44100, 300))
    whole, _ = read_soundtrack(tmp_path / "v.mp4")
    assert 3 * 44100 <= len(whole) < 3 * 44100 + 4096
    rest, _ = read_soundtrack(tmp_path / "v.mp4", (2.0, 10.0))
    assert len(rest) == len(whole) - 2 * 44100
    np.testing.assert_allclose(rest.numpy(), whole[2 * 44100 :].numpy(), atol=1e-5)


@pytest.mark.parametrize("read", [lambda path: frames_at_even_times(path, 3, 32), read_soundtrack])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text("no video at all\n" * 50), "not decodable"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.unlink(), "not found"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut off"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut off"),
    ],
)
def test_what_is_no_whole_video_is_refused(tmp_path: Path, capfd, read, damage, words: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    path = tmp_path / "v.flv"
    media.write_video(path, 40, sound=media.tone(4, 44100, 300))
    damage(path)
    with pytest.raises(UnreadableFileError, match=words) as caught:
        read(path)
    assert caught.value.path == path
    assert capfd.readouterr() == ("", "")  # FFmpeg says nothing


def test_an_mp4_cut_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    media.write_video(path, 60, "mpeg4", options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableFileError, match="cut off"):
        frames_at_even_times(path, 3, 32)


def test_a_video_cut_between_two_packets_is_shorter_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "v.flv"
    media.write_video(path, 40)
    media.cut_after(path, 20)
    with pytest.raises(
        UnreadableFileError, match=r"cut off: ends at 1\.90 s, its header says 4\.00 s"
    ):
        frames_at_even_times(path, 3, 32)
    assert numbers(frames_at_even_times(path, 2, 32, trust_duration=False)) == [5, 15]


def test_damaged_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.flv"
    media.write_video(path, 20)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    content = bytearray(path.read_bytes())
    for place, size in packets:
        # 11 bytes of tag header, 1 of codec
        content[place + 12 : place + 12 + size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"not decodable|can be decoded"):
        frames_at_even_times(path, 3, 32)


def test_a_segment_where_there_is_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    media.write_video(path, 30, "mpeg4", sound=media.tone(3, 44100, 300))
    with pytest.raises(UnreadableFileError, match=r"last frame is at 2\.90 s, before 5 s"):
        frames_at_even_times(path, 3, 32, (5.0, 8.0))
    with pytest.raises(UnreadableFileError, match=r"no sound from 5 s to 8 s"):
        read_soundtrack(path, (5.0, 8.0))


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.mp4", 30, "mpeg4")
    with pytest.raises(UnreadableFileError, match="holds no sound"):
        read_soundtrack(tmp_path / "v.mp4")
    with av.open(str(tmp_path / "s.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        chunk = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        chunk.sample_rate = 44100
        container.mux(stream.encode(chunk))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableFileError, match="holds no video"):
        frames_at_even_times(tmp_path / "s.mp4", 3, 32)
