"""Damaged media files: cut, with flipped or blank bytes, with another's ending.

And what becomes of each.

``python tests/helpers/damaged_media.py 2000`` from the repository root tries so many, and prints
a table. A file is taken, or refused as unreadable: nothing else may happen, within 20 seconds. A
cut file is never taken as a sample that differs from the whole one's, which would be short
without a word.
"""

import contextlib
import itertools
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import media  # noqa: E402

from data_prep.errors import UnreadableFileError  # noqa: E402
from data_prep.files.makers import MAKERS, Source  # noqa: E402

LONGEST = 20
"""Seconds for one file."""
SOUNDS = ("wav", "flac", "ogg", "mp3", "aiff", "m4a", "mka")
IMAGES = ("jpg", "png", "webp", "tif", "bmp", "gif")
VIDEOS = ("mp4", "avi", "mkv", "flv", "mov", "ts")
CODECS = {
    "mp4": "libx264",
    "avi": "mpeg4",
    "mkv": "libx264",
    "flv": "flv1",
    "mov": "mpeg4",
    "ts": "mpeg2video",
}
TS_PACKET = 188
DAMAGES = ("cut", "flipped", "blank", "renamed")
RECIPES: dict[str, dict[str, Any]] = {
    "log-spectrogram": {"seconds": 3.0},
    "photo": {"size": 32},
    "video-frames": {"count": 4, "size": 32},
    "series": {"channels": 2, "points": 16},
}
"""Maker -> the rest of its recipe."""


@dataclass(frozen=True)
class Outcome:
    """What became of a damaged file."""

    kind: str
    damage: str
    verdict: str
    """"refused", "as whole", "otherwise", or what must not happen."""

    @property
    def is_wrong(self) -> bool:
        """Return whether it may not be so; bytes that changed may well be heard or seen."""
        short = self.damage == "cut" and self.verdict == "otherwise"
        return short or self.verdict not in ("refused", "as whole", "otherwise")


def write_originals(folder: Path) -> dict[Path, str]:
    """Write a whole file of each kind; return which maker makes a sample of it."""
    made: dict[Path, str] = {}
    sound = media.tone(3.2, 16000, 400)
    for ending in SOUNDS:
        path = folder / f"sound.{ending}"
        if ending in ("m4a", "mka"):
            _write_aac(path, sound)
        else:
            soundfile.write(path, sound, 16000)
        made[path] = "log-spectrogram"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for ending in IMAGES:
        Image.fromarray(pixels).save(folder / f"image.{ending}")
        made[folder / f"image.{ending}"] = "photo"
    for ending in VIDEOS:
        path = folder / f"video.{ending}"
        media.write_video(path, 30, CODECS[ending], fps=25 if ending == "ts" else media.FPS)
        made[path] = "video-frames"
    np.save(folder / "numbers.npy", np.random.default_rng(0).normal(size=(50, 2)))
    made[folder / "numbers.npy"] = "series"
    return made


def _write_aac(path: Path, sound: NDArray[np.float32]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def damaged(content: bytes, damage: str, generator: np.random.Generator) -> bytes:
    """Return a file's bytes with one kind of damage."""
    if damage == "cut":
        end = int(generator.integers(1, len(content)))
        # Cut between two packets, a transport stream is a whole one
        return content[: end - (end % TS_PACKET == 0)]
    changed = bytearray(content)
    if damage == "flipped":
        for place in generator.integers(0, len(content), int(generator.integers(1, 20))):
            changed[place] ^= 1 << int(generator.integers(8))
    if damage == "blank":
        start = int(generator.integers(0, len(content)))
        end = min(start + int(generator.integers(1, 400)), len(content))
        changed[start:end] = bytes(end - start)
    return bytes(changed)


def sample_of(path: Path, maker: str) -> NDArray[Any]:
    """Return the sample that is made of a file."""
    return np.asarray(MAKERS[maker].make(Source(path), **RECIPES[maker]))


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in a block that takes too long."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_files(folder: Path, count: int, seed: int = 0) -> list[Outcome]:
    """Make samples of damaged files.

    Parameters
    ----------
    folder
        An empty directory.
    count
        How many files, all kinds and damages in turn.
    seed
        Of the damages.

    Returns
    -------
    What became of each.
    """
    originals = write_originals(folder)
    whole = {path: sample_of(path, maker) for path, maker in originals.items()}
    generator = np.random.default_rng(seed)
    turns = itertools.cycle(itertools.product(DAMAGES, originals.items()))
    outcomes = []
    for number, (damage, (path, maker)) in enumerate(itertools.islice(turns, count)):
        endings = [other.suffix for other in originals if other.suffix != path.suffix]
        ending = str(generator.choice(endings)) if damage == "renamed" else path.suffix
        file = folder / f"damaged{number}{ending}"
        file.write_bytes(damaged(path.read_bytes(), damage, generator))
        outcomes.append(Outcome(path.suffix[1:], damage, _verdict(file, maker, whole[path])))
        file.unlink()
    return outcomes


def _verdict(file: Path, maker: str, whole: NDArray[Any]) -> str:
    try:
        with _limit(LONGEST):
            sample = sample_of(file, maker)
    except UnreadableFileError:
        return "refused"
    except Exception as error:  # what must not happen
        return f"{type(error).__name__}: {error}"
    if sample.shape != whole.shape:
        return f"shape {sample.shape}"
    return "as whole" if np.array_equal(sample, whole) else "otherwise"


def main() -> None:
    """Print what became of files, and end with 1 if something must not."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        outcomes = try_files(Path(folder), count)
    for (kind, damage, verdict), number in sorted(
        Counter((o.kind, o.damage, o.verdict) for o in outcomes).items()
    ):
        sys.stdout.write(f"{kind:5} {damage:8} {number:5} {verdict}\n")
    wrong = [outcome for outcome in outcomes if outcome.is_wrong]
    sys.stdout.write(f"{len(outcomes)} files, {len(wrong)} of them as must not be\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
