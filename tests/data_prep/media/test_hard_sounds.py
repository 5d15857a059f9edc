"""data_prep.media.audio on sound files as people have them.

Cut off, misnamed, of odd rates and odd ranges.
"""

import math
import resource
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from media import tone

from data_prep.errors import UnreadableFileError
from data_prep.media.audio import log_spectrogram, read_sound
from data_prep.media.resampling import _by_blocks, resample
from data_prep.media.wholeness import _mp3_frame_bytes, check_whole

RATE = 16000
FORMATS = {
    "a.wav": {},
    "a.mp3": {},
    "a.aiff": {},
    "a.au": {},
    "a.caf": {},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.flac": {},
}


def encode(
    path: Path, codec: str, sound: np.ndarray, rate: int = RATE, form: str | None = None
) -> Path:
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(sound), 1024):
            chunk = av.AudioFrame.from_ndarray(
                sound[None, start : start + 1024], format="fltp", layout="mono"
            )
            chunk.sample_rate, chunk.pts = rate, start
            container.mux(stream.encode(chunk))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(4, RATE, 300), RATE, **FORMATS[name])
    waveform, rate = read_sound(path)
    assert abs(len(waveform) / rate - 4) < 0.2
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnreadableFileError, match=r"cut off|not decodable"):
        read_sound(path)


def test_an_mp3_without_a_size_in_its_header_is_refused_when_its_last_frame_is_cut(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(2, RATE, 300), RATE)
    content = path.read_bytes().replace(b"Info", b"\0\0\0\0").replace(b"Xing", b"\0\0\0\0")
    path.write_bytes(content)
    read_sound(path)
    path.write_bytes(content[:-50])
    with pytest.raises(UnreadableFileError, match="cut off: its last frame is not whole"):
        read_sound(path)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF024, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_does_not_know_its_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1, RATE, 300), RATE)
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[4:8] = struct.pack("<I", size)
    content[place + 4 : place + 8] = struct.pack(
        "<I", max(size, 1 << 31) - 36 if size else 0xFFFFFFFF
    )
    path.write_bytes(content)
    assert len(read_sound(path)[0]) == RATE


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("a.wav", "aac", "ipod"), ("a.m4a", "alac", "ipod"), ("a.mp3", "aac", "adts"), ("a.aac", "aac", "adts"),
     ("a.txt", "flac", "flac"),  ("a.ac3", "ac3", "ac3"),
     ("a.mka", "libopus", "matroska")],
)  # fmt: skip
def test_what_a_file_is_its_content_says(tmp_path: Path, name: str, codec: str, form: str) -> None:
    """A second of near silence, then a tone: the bit rate says nothing about the length."""
    rate = 48000 if codec in ("libopus", "ac3") else RATE
    sound = np.concatenate([np.full(rate, 1e-4, np.float32), tone(2, rate, 300)])
    if codec == "flac" or codec == "alac":
        soundfile.write(tmp_path / "plain.wav", sound, rate)
        with (
            av.open(str(tmp_path / "plain.wav")) as source,
            av.open(str(tmp_path / name), "w", format=form) as out,
        ):
            stream = out.add_stream(codec, rate=rate, layout="mono")
            for frame in source.decode(audio=0):
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    else:
        encode(tmp_path / name, codec, sound, rate, form)
    waveform, found = read_sound(tmp_path / name)
    assert found == rate
    assert abs(len(waveform) / rate - 3) < 0.15
    middle = waveform[2 * rate : 2 * rate + rate // 2].numpy()
    assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) * 2 - 300) <= 2


@pytest.mark.parametrize(
    "content", [b"\0" * 4000, b"\x7f\x01" * 2000, b"%PDF-1.7", b"<html>Not found</html>"]
)
def test_what_is_no_sound_is_refused_whatever_its_name(tmp_path: Path, content: bytes) -> None:
    for ending in ("raw", "wav", "mp3", "sd2"):
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(UnreadableFileError):
            read_sound(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("scale", [32767, 128, 2.0**31])
def test_integers_stored_as_floats_are_refused_with_their_range(
    tmp_path: Path, scale: float
) -> None:
    soundfile.write(tmp_path / "a.wav", scale * tone(1, RATE, 300), RATE, subtype="FLOAT")
    with pytest.raises(UnreadableFileError, match=r"samples of up to \S+, but full scale is 1"):
        read_sound(tmp_path / "a.wav")


def test_an_overshoot_is_no_other_scale(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 3 * tone(1, RATE, 300), RATE, subtype="FLOAT")
    assert float(read_sound(tmp_path / "a.wav")[0].max()) > 1


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (44056, 16000)])
def test_weights_made_as_they_are_needed_are_those_of_the_kernel(rate: int, wanted: int) -> None:
    waveform = torch.from_numpy(tone(0.05, rate, 440))
    divisor = math.gcd(rate, wanted)
    expected = torchaudio.functional.resample(waveform, rate, wanted)
    found = _by_blocks(waveform, rate // divisor, wanted // divisor)
    # Its kernel is of single precision
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def test_an_odd_rate_and_a_long_file_take_little_memory(tmp_path: Path) -> None:
    """An hour of stereo at 48,001 Hz, with holes that take no disk.

    Only the first seconds are read.
    """
    path = tmp_path / "a.wav"
    frames = 3600 * 48001
    soundfile.write(path, np.stack([tone(5, 48001, 300)] * 2, axis=1), 48001)
    with path.open("r+b") as file:
        content = bytearray(file.read(44))
        content[4:8], content[40:44] = (
            struct.pack("<I", frames * 4 + 36),
            struct.pack("<I", frames * 4),
        )
        file.seek(0)
        file.write(content)
        file.truncate(44 + frames * 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waveform, rate = read_sound(path, seconds=3.0)
    assert 3 * 48001 <= len(waveform) <= 4 * 48001
    assert log_spectrogram(path, waveform, rate, 3.0).shape == (1, 257, 299)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_rate_that_no_recording_has_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, RATE, 300), 2_000_000_000)
    with pytest.raises(UnreadableFileError, match="its header says 2000000000 Hz"):
        read_sound(tmp_path / "a.wav")


def test_resampling_by_the_same_rate_changes_nothing() -> None:
    waveform = torch.arange(4.0)
    assert resample(waveform, 7, 7) is waveform


def test_a_long_mp3_is_checked_by_its_headers_alone(tmp_path: Path) -> None:
    """24 MB of frames: none of them is kept, and a last one that is not whole is found."""
    short, path = tmp_path / "short.mp3", tmp_path / "long.mp3"
    soundfile.write(short, tone(5, 48000, 300), 48000, format="MP3")
    frames = short.read_bytes()
    first = _mp3_frame_bytes(frames[:4])  # holds the stated length
    path.write_bytes(frames[first:] * (24_000_000 // len(frames)))

    tracemalloc.start()
    try:
        check_whole(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000

    with path.open("ab") as file:
        file.write(frames[first : first + 50])
    with pytest.raises(UnreadableFileError, match="cut off: its last frame is not whole"):
        check_whole(path)
