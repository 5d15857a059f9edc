"""How fast local training is from files to weights, against research code that decodes each sample
in its loop.

Run it as ``python tests/benchmarks/epoch.py``; it needs torch, torchvision (with its Pillow) and
this repository. The subject is that of ``step.py``, the files are those of ``bench_reading.py``.
Measured in turns in one run:

* plain: each JPEG decoded, each pickle loaded, in the loop, then the plain step (``plain.py``);
* ours: ``client_app.train.train`` on the prepared arrays with a fresh model: everything that a
  node does in a round, the pass for class statistics included, for one local epoch of it; also
  with crops and mirroring of the frames;
* pure steps: the same number of our steps on a batch that is on the device already.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.bare import make_importable

make_importable()

import torch  # noqa: E402
from benchmarks import bench_reading as files  # noqa: E402
from benchmarks import subjects as on  # noqa: E402
from benchmarks.plain import PlainTraining  # noqa: E402

from client_app.train import begin_round, new_optimizer, step, train  # noqa: E402
from fedcmi_flwr.client import LocalObjective  # noqa: E402
from fedcmi_flwr.data.samples import Samples  # noqa: E402
from fedcmi_flwr.data.views import Views  # noqa: E402
from fedcmi_flwr.models.multimodal import MultimodalModel  # noqa: E402
from fedcmi_flwr.types import Batch  # noqa: E402

Action = Callable[[], object]


def plain_epoch(
    model: MultimodalModel, directory: Path, samples: Samples, batch_size: int, device: torch.device
) -> Action:
    """Return an epoch of research code."""
    size = samples.modalities[1].shape[-1]
    read = files.decoded_batches(directory, len(samples), size)
    training = PlainTraining(
        model, on.WITH_KD, on.settings(batch_size), on.DOMINANT, on.TEMPERATURE
    )
    labels = torch.from_numpy(samples.labels)

    def epoch() -> None:
        order = torch.randperm(len(samples))
        for chosen in order.split(batch_size):
            inputs = {name: value.to(device) for name, value in read(chosen.numpy()).items()}
            present = torch.ones(len(chosen), 2, dtype=torch.bool, device=device)
            training.step(
                Batch(inputs, labels[chosen].to(device), present, True, chosen.to(device))
            )

    return epoch


def our_round(model: MultimodalModel, samples: Samples, batch_size: int, epochs: int) -> Action:
    """Return a whole local round."""
    settings = on.settings(batch_size, epochs)
    return lambda: train(model, samples, on.WITH_KD, settings, on.ROUND, 0, on.RECEIVED)


def pure_steps(
    model: MultimodalModel, samples: Samples, batch_size: int, device: torch.device
) -> Action:
    """Return the steps of one epoch, on one batch."""
    settings = on.settings(batch_size)
    few = samples.select(samples.rows[:batch_size])
    local = begin_round(model, few, on.WITH_KD, settings, on.ROUND, 0, on.RECEIVED)
    batch = next(few.batches(batch_size, on.NAMES, device))
    objective = LocalObjective(model, on.WITH_KD, local, "fedcmi")
    optimizer = new_optimizer(model.train(), settings, settings.lr)

    def steps() -> None:
        for _ in range(len(samples) // batch_size):
            step(model, batch, objective, optimizer)
        objective.losses.sums()

    return steps


def measure(
    directory: Path,
    count: int,
    size: int,
    batch_size: int,
    epochs: int,
    repetitions: int,
    device: torch.device,
) -> None:
    """Print the table."""
    samples, received = files.prepared_samples(directory, count, size), on.new_model(size)
    samples = replace(samples, labels=samples.rows % on.CLASSES)
    augmented = replace(samples, views=Views(("visual",)))
    variants = {
        "plain": plain_epoch(
            on.placed(received, device, "fp32"), directory, samples, batch_size, device
        )
    }
    for precision in ("fp32", "bf16"):
        for label, seen in (("", samples), (", augmented", augmented)):
            model = on.placed(received, device, precision)
            variants[precision + label] = our_round(model, seen, batch_size, epochs)
        variants[f"{precision}, pure steps"] = pure_steps(
            on.placed(received, device, precision), samples, batch_size, device
        )
    times = on.paired(variants, device, repetitions, warm_up=1)
    for precision in ("fp32", "bf16"):
        for label in (precision, f"{precision}, augmented"):
            times[label] = [taken / epochs for taken in times[label]]
            share = on.ratio(times, f"{precision}, pure steps", label)[0]
            speed, best = on.ratio(times, "plain", label)
            on.say(
                f"{label:<20}{speed:6.2f} x plain (best {best:.2f}){share:9.0%} of the pure "
                "steps' rate"
            )


def main() -> None:
    """Make the files and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--batches", type=int, default=0, help="of an epoch; default: 32 on a GPU, 4 on a CPU"
    )
    parser.add_argument(
        "--epochs", type=int, default=0, help="of a round; default: 10 on a GPU, 3 on a CPU"
    )
    parser.add_argument(
        "--batch", type=int, default=0, help="samples a batch; default: 64 on a GPU, 8 on a CPU"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of the CPU; 1 is what a run has by default"
    )
    parser.add_argument("--size", type=int, default=on.SIZE, help="pixels of a frame's side")
    parser.add_argument(
        "--cpu", action="store_true", help="measure the CPU although there is a GPU"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    on_gpu = torch.cuda.is_available() and not arguments.cpu
    device = torch.device("cuda" if on_gpu else "cpu")
    batch_size = arguments.batch or (64 if on_gpu else 8)
    count = (arguments.batches or (32 if on_gpu else 4)) * batch_size
    epochs = arguments.epochs or (10 if on_gpu else 3)
    on.say(f"{count} samples, {batch_size} a batch, {epochs} local epochs, {on.describe(device)}")
    with tempfile.TemporaryDirectory() as name:
        files.make(Path(name), count, arguments.size)
        measure(
            Path(name), count, arguments.size, batch_size, epochs, arguments.repetitions, device
        )
    if not on_gpu:
        on.say("GPU rows: unmeasured")


if __name__ == "__main__":
    main()
