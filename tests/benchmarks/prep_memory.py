"""The peak memory of one worker of `fedcmi prep` on files that are much larger than what is kept of
them.

``python tests/benchmarks/prep_memory.py [--share 1.0]`` from the repository root; ``--share
0.01`` makes smaller files.

Each file is made into a sample in a process of its own, and the highest resident set size of
that process is printed, beside what the same process takes for a small file: most of it is
torch. Files are sparse: they take no disk.
"""

import argparse
import multiprocessing
import multiprocessing.connection
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from media import tone, write_video  # noqa: E402

GIGABYTE = 1 << 30
SOUND = ("log-spectrogram", {"seconds": 3.0})
SERIES = ("series", {"channels": 4, "points": 128})
FRAMES = ("video-frames", {"count": 3, "size": 256})


def write_wav(path: Path, rate: int, channels: int, seconds: float) -> None:
    """Write a tone of 5 s that goes on as silence, which takes no disk."""
    soundfile.write(path, np.stack([tone(5, rate, 300)] * channels, axis=1), rate, "PCM_16")
    length = round(rate * max(seconds, 5)) * channels * 2
    with path.open("r+b") as file:
        header = bytearray(file.read(44))
        header[4:8], header[40:44] = struct.pack("<I", length + 36), struct.pack("<I", length)
        file.seek(0)
        file.write(header)
        file.truncate(44 + length)


def write_mp3(path: Path, seconds: float) -> None:
    """Write a tone whose frames come again and again."""
    soundfile.write(path, tone(60, 48000, 300), 48000, format="MP3")
    frames = path.read_bytes()
    path.write_bytes(frames * max(1, round(seconds / 60)))


def write_npy(path: Path, size: int) -> None:
    """Write [time, 4] of float32."""
    rows = size // 16
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, 4)}
        )
        np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32).tofile(file)
        file.truncate(file.tell() + (rows - 100) * 16)


def cases(
    share: float,
) -> dict[str, tuple[Callable[[Path], object], str, tuple[str, dict[str, Any]]]]:
    """Return what is measured: writer, ending, and recipe."""
    return {
        "sound of 5 s, 16 kHz": (lambda path: write_wav(path, 16000, 1, 5), "wav", SOUND),
        "sound of an hour, 48 kHz, stereo": (
            lambda path: write_wav(path, 48000, 2, 3600 * share),
            "wav",
            SOUND,
        ),
        "sound of 3 GB, 48 kHz, stereo": (
            lambda path: write_wav(path, 48000, 2, 16000 * share),
            "wav",
            SOUND,
        ),
        "sound of 60 s, 16,001 Hz": (lambda path: write_wav(path, 16001, 1, 60), "wav", SOUND),
        "MP3 of ten hours": (lambda path: write_mp3(path, 36000 * share), "mp3", SOUND),
        "NPY of 3 GB": (lambda path: write_npy(path, round(3 * GIGABYTE * share)), "npy", SERIES),
        "video of 20 s, 1080p": (
            lambda path: write_video(
                path, max(30, round(500 * share)), "libx264", size=(1920, 1080), fps=25
            ),
            "mp4",
            FRAMES,
        ),
    }


def peak_mb(
    path: Path, maker: str, recipe: dict[str, Any], pipe: multiprocessing.connection.Connection
) -> None:
    """Make a sample in this process, and send the highest resident set size that it had."""
    import torch

    from data_prep.files.makers import MAKERS, Source

    torch.set_num_threads(1)
    MAKERS[maker].make(Source(path), **recipe)
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    pipe.send(int(line.split()[1]) / 1024)


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes that the lines name")
    share = parser.parse_args().share
    context = multiprocessing.get_context("spawn")
    first = 0.0
    for name, (write, ending, (maker, recipe)) in cases(share).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file.{ending}"
            write(path)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=peak_mb, args=(path, maker, recipe, sender))
            process.start()
            sender.close()  # so that receiving ends when the process does
            found = receiver.recv()
            process.join()
            size = path.stat().st_size / 1e6
        first = first or found
        sys.stdout.write(
            f"{name} ({size:,.0f} MB): peak {found:.0f} MB, {found / first:.1f} x the first one's\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
