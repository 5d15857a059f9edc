"""Speed and memory of `fedcmi prep` against the obvious script, on the same made-up files in one
run.

``python tests/benchmarks/bench_prep.py [--clips 400] [--repetitions 3] [--workers 2]`` from the
repository root.

The obvious script: one process; per clip read the sound, resample it with a kernel made on the
spot, take the spectrogram, decode every frame of the video to an RGB array, resize the wanted
ones with PIL, and save a file per modality. Both are timed from after their imports to their
last byte; ours includes starting its workers. Memory is the highest sum of the proportional set
sizes of all processes, sampled 20 times a second.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
import torchaudio
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from media import EMOTIONS, tone, write_video  # noqa: E402

from data_prep.pipeline.execution import Execution  # noqa: E402
from data_prep.sets import ave, cremad  # noqa: E402

ORIGINALS = 6
"""Files that are really encoded; the others are copies."""
SIZE = 256


def write_cremad(raw: Path, clips: int) -> None:
    """Write clips of 2.5 s: 480 x 360 at 30 frames per second, 16 kHz."""
    (raw / "AudioWAV").mkdir(parents=True)
    (raw / "VideoFlash").mkdir()
    names = itertools.product(range(1001, 2000), EMOTIONS)
    for number, (actor, emotion) in enumerate(itertools.islice(names, clips)):
        wav, flv = (
            raw / "AudioWAV" / f"{actor}_IEO_{emotion}_XX.wav",
            raw / "VideoFlash" / f"{actor}_IEO_{emotion}_XX.flv",
        )
        if number < ORIGINALS:
            soundfile.write(wav, tone(2.5, 16000, 200 + number), 16000, subtype="PCM_16")
            write_video(flv, 75, "flv1", size=(480, 360), fps=30)
        else:
            original = sorted(path.stem for path in (raw / "AudioWAV").iterdir())[
                number % ORIGINALS
            ]
            shutil.copy(raw / "AudioWAV" / f"{original}.wav", wav)
            shutil.copy(raw / "VideoFlash" / f"{original}.flv", flv)


def write_ave(raw: Path, clips: int) -> None:
    """Write videos of 10 s.

    H.264 640 x 360 at 30 frames per second, a key frame every 2 s, AAC at 44.1 kHz.
    """
    (raw / "AVE").mkdir(parents=True)
    lines = [f"{'AB'[number % 2]}&v{number:04}&good&{number % 3}&10" for number in range(clips)]
    for number in range(clips):
        path = raw / "AVE" / f"v{number:04}.mp4"
        if number < ORIGINALS:
            write_video(
                path,
                300,
                "libx264",
                sound=tone(10, 44100, 200 + number),
                size=(640, 360),
                fps=30,
                gop=60,
            )
        else:
            shutil.copy(raw / "AVE" / f"v{number % ORIGINALS:04}.mp4", path)
    parts = {
        "Annotations": lines,
        "trainSet": lines[: clips // 2],
        "valSet": lines[clips // 2 : -10],
        "testSet": lines[-10:],
    }
    for name, part in parts.items():
        (raw / f"{name}.txt").write_text("".join(f"{line}\n" for line in part))


def obvious_spectrogram(waveform: torch.Tensor, rate: int, seconds: int) -> np.ndarray:
    """Resample, tile, and take the spectrogram."""
    if rate != 16000:
        waveform = torchaudio.transforms.Resample(rate, 16000)(waveform)
    length = 16000 * seconds
    clip = waveform.repeat(length // len(waveform) + 1)[:length].clamp(-1, 1)
    power = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=159, center=False)(clip)
    logs = (power + 1e-7).log()
    return ((logs - logs.mean()) / logs.std()).numpy().astype(np.float16)


def obvious_frames(path: Path, start: float, end: float, count: int) -> np.ndarray:
    """Decode every frame, and resize those wanted."""
    with av.open(str(path)) as container:
        frames = [
            frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)
        ]
    rate = 30
    last = min(len(frames), round(end * rate))
    places = [
        round(start * rate + (last - start * rate) * (part + 0.5) / count) for part in range(count)
    ]
    images = [
        Image.fromarray(frames[place]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        for place in places
    ]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])


def obvious_cremad(raw: Path, out: Path) -> None:
    """Prepare CREMA-D file by file."""
    out.mkdir()
    for flv in sorted((raw / "VideoFlash").iterdir()):
        data, rate = soundfile.read(raw / "AudioWAV" / f"{flv.stem}.wav", dtype="float32")
        np.save(out / f"{flv.stem}_audio.npy", obvious_spectrogram(torch.from_numpy(data), rate, 3))
        np.save(out / f"{flv.stem}_visual.npy", obvious_frames(flv, 0, 1e9, 3))


def obvious_ave(raw: Path, out: Path) -> None:
    """Prepare AVE file by file."""
    out.mkdir()
    for line in (raw / "Annotations.txt").read_text().splitlines():
        _, video, _, start, end = line.split("&")
        path = raw / "AVE" / f"{video}.mp4"
        with av.open(str(path)) as container:
            rate = container.streams.audio[0].rate
            sound = np.concatenate(
                [frame.to_ndarray() for frame in container.decode(audio=0)], axis=1
            ).mean(axis=0)
        segment = torch.from_numpy(sound[int(start) * rate : int(end) * rate])
        np.save(out / f"{video}_audio.npy", obvious_spectrogram(segment, rate, 10))
        np.save(out / f"{video}_visual.npy", obvious_frames(path, int(start), int(end), 10))


def our_cremad(raw: Path, out: Path, workers: int) -> None:
    """Prepare CREMA-D as `fedcmi prep cremad` does."""
    cremad.prepare(raw, out, execution=Execution(workers))


def our_ave(raw: Path, out: Path, workers: int) -> None:
    """Prepare AVE as `fedcmi prep ave` does."""
    ave.prepare(raw, out, execution=Execution(workers))


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


def memory_mb(pid: int) -> float:
    """Return the sum of the proportional set sizes of a process and its descendants."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError, IndexError):
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            total += int(rollup.split("\nPss:")[1].split()[0]) / 1024
    return total


def timed(
    pipe: multiprocessing.connection.Connection,
    work: Callable[..., None],
    arguments: Sequence[object],
) -> None:
    """Do the work in this process, and send how long it took."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    work(*arguments)
    pipe.send(time.perf_counter() - start)


def measure(work: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of work done in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=timed, args=(sender, work, arguments))
    process.start()
    sender.close()  # so that receiving ends when the process does
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory_mb(process.pid or 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = receiver.recv()
    except EOFError:
        raise SystemExit(f"{work.__name__}{arguments} failed; the reason stands above.") from None
    finally:
        done.set()
        watcher.join()
        process.join()
    return seconds, peak


def main() -> None:
    """Measure both data sets, and print a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--clips", type=int, default=400, help="of CREMA-D; a quarter as many of AVE"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sets = {
        "CREMA-D": (options.clips, write_cremad, obvious_cremad, our_cremad),
        "AVE": (max(options.clips // 4, 30), write_ave, obvious_ave, our_ave),
    }
    for name, (clips, write, obvious, ours) in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            write(raw, clips)
            theirs, mine, ratios = [], [], []
            for repetition in range(options.repetitions):
                theirs.append(measure(obvious, raw, Path(folder) / f"obvious{repetition}"))
                mine.append(measure(ours, raw, Path(folder) / f"ours{repetition}", options.workers))
                ratios.append(theirs[-1][0] / mine[-1][0])
                shutil.rmtree(Path(folder) / f"obvious{repetition}")
                shutil.rmtree(Path(folder) / f"ours{repetition}")
        for label, runs in (
            ("obvious script", theirs),
            (f"fedcmi prep, {options.workers} workers", mine),
        ):
            rate = clips / statistics.median(seconds for seconds, _ in runs)
            sys.stdout.write(
                f"{name}: {label}: {rate:.1f} clips/s, peak {max(peak for _, peak in runs):.0f} "
                "MB\n"
            )
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        sys.stdout.write(
            f"{name}: ratio {statistics.median(ratios):.1f} x (each repetition: {each})\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
