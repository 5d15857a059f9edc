"""Raw archives with real media, made on the spot: CREMA-D (WAV + FLV) and AVE (MP4).

What a video shows can be read from its frames: the upper half is grey and says when (``level``),
the lower half has the colour of its class.
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

FPS = 10
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
COLOURS = (
    (200, 60, 30),
    (30, 200, 60),
    (60, 30, 200),
    (200, 200, 30),
    (30, 200, 200),
    (200, 30, 200),
)
VERY_SHORT, NO_DURATION, MINUTE_LONG, NOT_A_CLIP = (
    "1076_MTI_NEU_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD", "1076_MTI_SAD_XX",
)  # fmt: skip


def level(frame: int) -> int:
    """Return the grey level of a frame: 8 more than the one before, from 24 to 224, and again."""
    return 24 + 8 * (frame % 26)


def frame_number(pixels: np.ndarray) -> int:
    """Return which of the first 26 frames [3, size, size] this is."""
    upper = pixels[:, 2 : pixels.shape[1] // 2 - 2, 2:-2].astype(float)
    assert np.ptp(upper.mean(axis=(1, 2))) < 4, "not grey"
    return round((upper.mean() - 24) / 8)


def tone(seconds: float, rate: int, hertz: float, noise: float = 0.01) -> np.ndarray:
    """Return a tone with a little noise, always the same for the same numbers."""
    times = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(round(hertz)).standard_normal(len(times))
    return (0.4 * np.sin(2 * np.pi * hertz * times) + noise * hiss).astype(np.float32)


def write_video(
    path: Path,
    frames: int,
    codec: str = "flv1",
    colour: tuple[int, int, int] = COLOURS[0],
    sound: np.ndarray | None = None,
    sound_rate: int = 44100,
    size: tuple[int, int] = (96, 72),
    fps: int = FPS,
    gop: int = 12,
    options: dict[str, str] | None = None,
) -> None:
    """Write a video, with stereo AAC sound where ``sound`` is given [samples]."""
    width, height = size
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.bit_rate = 800_000
        coder = {"aac_coder": "fast"}
        voice = (
            container.add_stream("aac", rate=sound_rate, options=coder, layout="stereo")
            if sound is not None
            else None
        )
        picture = np.empty((height, width, 3), np.uint8)
        picture[height // 2 :] = colour
        for number in range(frames):
            picture[: height // 2] = level(number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                piece = np.stack([sound[start : start + 1024]] * 2).astype(np.float32)
                chunk = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                chunk.sample_rate, chunk.pts, chunk.time_base = (
                    sound_rate,
                    start,
                    Fraction(1, sound_rate),
                )
                container.mux(voice.encode(chunk))
            container.mux(voice.encode(None))


def forget_duration(path: Path) -> None:
    """Take the duration out of an FLV's header."""
    content = path.read_bytes()
    assert content.count(b"duration") == 1
    path.write_bytes(content.replace(b"duration", b"duratiom"))


def cut_after(path: Path, packets: int) -> None:
    """Cut a video off between two packets."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux() if packet.size]
    path.write_bytes(path.read_bytes()[: places[packets]])


def write_cremad(
    raw: Path,
    actors: Sequence[str] = ("1001", "1002", "1003", "1064", "1076"),
    sentences: Sequence[str] = ("DFA", "IEO"),
) -> list[str]:
    """Write an archive of every actor, sentence and emotion, and the four known-bad clips.

    Return the clips' names.

    A clip is 2 to 3 s long; its tone and its colour say the emotion. The known-bad clips: one
    frame; no duration in the header; a minute long; no sound and no picture.
    """
    (raw / "AudioWAV").mkdir(parents=True)
    (raw / "VideoFlash").mkdir()
    named = [
        f"{actor}_{sentence}_{emotion}_XX"
        for actor, sentence, emotion in itertools.product(actors, sentences, EMOTIONS)
    ]
    clips = sorted({*named, VERY_SHORT, NO_DURATION, MINUTE_LONG, NOT_A_CLIP})
    for number, clip in enumerate(clips):
        frames = {VERY_SHORT: 1, MINUTE_LONG: 600}.get(clip, 20 + number % 11)
        emotion = EMOTIONS.index(clip.split("_")[2])
        sound = tone(2 + number % 11 / 10, 16000, 300 * (emotion + 1) + number)
        soundfile.write(raw / "AudioWAV" / f"{clip}.wav", sound, 16000, subtype="PCM_16")
        write_video(raw / "VideoFlash" / f"{clip}.flv", frames, colour=COLOURS[emotion])
    forget_duration(raw / "VideoFlash" / f"{NO_DURATION}.flv")
    (raw / "AudioWAV" / f"{NOT_A_CLIP}.wav").write_bytes(b"")
    (raw / "VideoFlash" / f"{NOT_A_CLIP}.flv").write_bytes(b"an error picture")
    return clips


AVE_TRAIN, AVE_VAL, AVE_TEST = "trainSet.txt", "valSet.txt", "testSet.txt"
AVE_CLASSES = ("Church bell", "Race car, auto racing", "Frying (food)")


def write_ave(raw: Path, videos: int = 8, header: bool = True) -> dict[str, list[str]]:
    """Write an archive.

    Per class and video one line for training, every fourth for validation or testing.

    Video 0 of the first class has a second segment, in the same split. Video 1 of the second
    class has one in the test split. Return the lines of each list.
    """
    (raw / "AVE").mkdir(parents=True)
    lists: dict[str, list[str]] = {AVE_TRAIN: [], AVE_VAL: [], AVE_TEST: []}
    for number, (video, label) in enumerate(
        itertools.product(range(videos), range(len(AVE_CLASSES)))
    ):
        name = f"-v{label}_{video:02}"  # as in the archive, names may begin with a dash
        start, end = number % 3, 4 + number % 3
        line = f"{AVE_CLASSES[label]}&{name}&good&{start}&{end}"
        lists[(AVE_TRAIN, AVE_TRAIN, AVE_VAL, AVE_TEST)[video % 4]].append(line)
        sound = tone(6.5, 44100, 400 * (label + 1) + number)
        codec = ("mpeg4", "libx264")[number % 2]
        write_video(raw / "AVE" / f"{name}.mp4", 65, codec, COLOURS[label], sound)
    lists[AVE_TRAIN].append(f"{AVE_CLASSES[0]}&-v0_00&good&3&5")
    lists[AVE_TEST].append(f"{AVE_CLASSES[1]}&-v1_01&good&4&6")
    for name, lines in lists.items():
        (raw / name).write_text("".join(f"{line}\n" for line in lines))
    everything = [line for lines in lists.values() for line in lines]
    heading = ["Category&VideoID&Quality&StartTime&EndTime"] * header
    (raw / "Annotations.txt").write_text("".join(f"{line}\n" for line in [*heading, *everything]))
    return lists
