"""How fast training batches are read: prepared arrays against decoding and unpickling each sample.

Run it as ``python tests/benchmarks/bench_reading.py``. Both ways read the same made-up samples
(a spectrogram and three frames each) in the same random order, in one process and on one thread:

* prepared: uint8 frames and float16 spectrograms, memory-mapped, a batch at a time, as this
  project reads them: as they go to a GPU, in their stored dtype, and for a CPU, normalised
  there;
* per sample: each frame a JPEG that PIL decodes, each spectrogram a pickle, stacked to a batch:
  what research code does.

It prints samples per second of CPU time (so that other work on the machine does not count),
their ratio, and the peak memory of each way, in a process of its own.
"""

import argparse
import io
import multiprocessing
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fedcmi_flwr.data.samples import CPU, Samples, take
from fedcmi_flwr.data.schema import ModalitySpec

MEAN, STD = (
    tuple(255 * x for x in values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
AUDIO = ModalitySpec("audio", "spectrogram", (1, 257, 299), "float16")
SOURCE_SIZE = (360, 480)
"""Height and width of the JPEGs: CREMA-D's frames."""
BATCH = 64


def visual(size: int) -> ModalitySpec:
    """Return three frames of ``size`` x ``size`` pixels."""
    return ModalitySpec("visual", "frames", (3, 3, size, size), "uint8", MEAN, STD)


def frame(rng: np.random.Generator) -> Image.Image:
    """Return a frame with edges and texture, so that the JPEG has something to do."""
    height, width = SOURCE_SIZE
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (width, height), Image.BICUBIC
    )
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def make(directory: Path, count: int, size: int) -> None:
    """Write both forms of the same samples.

    Every 16th frame is made anew, the others are turned copies of it.
    """
    rng = np.random.default_rng(0)
    spectrograms = np.lib.format.open_memmap(
        directory / "audio.npy", "w+", np.float16, (count, *AUDIO.shape)
    )
    frames = np.lib.format.open_memmap(
        directory / "visual.npy", "w+", np.uint8, (count, *visual(size).shape)
    )
    for i in range(count):
        spectrograms[i] = rng.normal(size=AUDIO.shape)
        (directory / f"{i}.pkl").write_bytes(
            pickle.dumps(np.asarray(spectrograms[i], dtype=np.float32))
        )
        base = frame(rng) if i % 16 == 0 else base  # noqa: F821 (made in the first turn)
        for j in range(3):
            image = Image.fromarray(np.roll(np.asarray(base), (7 * i, 31 * j), axis=(0, 1)))
            image.save(directory / f"{i}_{j}.jpg", quality=90)
            stored = Image.open(directory / f"{i}_{j}.jpg").resize((size, size), Image.BILINEAR)
            frames[i, j] = np.asarray(stored).transpose(2, 0, 1)


Read = Callable[[np.ndarray], dict[str, torch.Tensor]]


def prepared_samples(directory: Path, count: int, size: int) -> Samples:
    """Return the prepared form of the samples."""
    specs = (AUDIO, visual(size))
    arrays = {spec.name: np.load(directory / f"{spec.name}.npy", mmap_mode="r") for spec in specs}
    rows, labels = np.arange(count), np.zeros(count, dtype=np.int64)
    return Samples(
        specs, arrays, labels, np.full(count, "g"), np.ones((count, 2), dtype=bool), rows
    )


def prepared_batches(directory: Path, count: int, size: int) -> Read:
    """Return this project's way to read a batch for a CPU."""
    samples = prepared_samples(directory, count, size)
    return lambda chosen: dict(samples.batch(chosen, ("audio", "visual")).inputs)


def stored_batches(directory: Path, count: int, size: int) -> Read:
    """Return this project's way to read a batch for a GPU, up to the copy to it."""
    samples = prepared_samples(directory, count, size)
    return lambda chosen: {
        name: take(array, chosen, None, CPU) for name, array in samples.arrays.items()
    }


def decoded_batches(directory: Path, count: int, size: int) -> Read:
    """Return the obvious way: open, decode and unpickle each sample."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) / 255 for values in (MEAN, STD))

    def image(path: Path) -> torch.Tensor:
        decoded = (
            Image.open(io.BytesIO(path.read_bytes()))
            .convert("RGB")
            .resize((size, size), Image.BILINEAR)
        )
        return (
            torch.from_numpy(np.asarray(decoded).copy()).permute(2, 0, 1).float() / 255 - mean
        ) / std

    def read(chosen: np.ndarray) -> dict[str, torch.Tensor]:
        sounds = [
            torch.from_numpy(pickle.loads((directory / f"{i}.pkl").read_bytes())) for i in chosen
        ]
        clips = [torch.stack([image(directory / f"{i}_{j}.jpg") for j in range(3)]) for i in chosen]
        return {"audio": torch.stack(sounds), "visual": torch.stack(clips)}

    return read


WAYS = {
    "prepared, for a GPU": stored_batches,
    "prepared, for a CPU": prepared_batches,
    "per sample": decoded_batches,
}


def measure(
    way: str, directory: Path, count: int, size: int, epochs: int
) -> tuple[float, float, float]:
    """Return samples per second, peak memory in MiB, and a checksum of some of the values that were
    read.
    """
    torch.set_num_threads(1)
    read = WAYS[way](directory, count, size)
    order = np.random.default_rng(1).permutation(count)
    read(order[:BATCH])  # imports and page cache
    checksum, started = 0.0, time.process_time()
    for _ in range(epochs):
        for start in range(0, count, BATCH):
            batch = read(order[start : start + BATCH])
            checksum += float(batch["visual"][0, 0, 0, 0, 0]) + float(batch["audio"][0, 0, 0, 0])
    seconds = time.process_time() - started
    return (
        epochs * count / seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        checksum / epochs,
    )


def main() -> None:
    """Measure both ways and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument(
        "--size", type=int, default=224, help="height and width of the frames, in pixels"
    )
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make(directory, arguments.samples, arguments.size)
        found = {}
        for way in WAYS:
            with spawn.Pool(1) as pool:
                epochs = 1 if way == "per sample" else 5
                found[way] = pool.apply(
                    measure, (way, directory, arguments.samples, arguments.size, epochs)
                )
    if abs(found["per sample"][2] - found["prepared, for a CPU"][2]) > 1e-2:
        raise SystemExit("the ways read different samples")
    for way, (speed, memory, _) in found.items():
        ratio = speed / found["per sample"][0]
        sys.stdout.write(
            f"{way:<20}{speed:8.0f} samples/s{ratio:8.1f} x, peak memory {memory:6.0f} MiB\n"
        )


if __name__ == "__main__":
    main()
