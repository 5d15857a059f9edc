"""How fast one optimiser step is, against research code, and what distillation adds to it.

Run it as ``python tests/benchmarks/step.py``; it needs torch and torchvision and this
repository, nothing else. Two ResNet-18 at CREMA-D's shapes, 64 samples a batch on a GPU and 8 on
a CPU. All rows are measured in turns in one run; a ratio is the median over the turns, and in
brackets that of the best times.

* plain: the whole global model as teacher, contiguous float32 (``plain.py``);
* fp32, bf16: this project's step, ``client_app.train.step``, on a model that
  ``model_from_config.place`` placed;
* teacher: its features computed in every step, or known from the pass that measures class
  statistics, which a node does once a round; "10 epochs" is that pass and ten epochs of known
  features, against ten epochs without KD.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.bare import make_importable

make_importable()

import torch  # noqa: E402
from benchmarks import subjects as on  # noqa: E402
from benchmarks.plain import PlainTraining  # noqa: E402

from client_app.train import begin_round, new_optimizer, step  # noqa: E402
from fedcmi_flwr.client import LocalObjective  # noqa: E402
from fedcmi_flwr.data.samples import Samples  # noqa: E402
from fedcmi_flwr.evaluation.counts import measure  # noqa: E402
from fedcmi_flwr.methods import Method  # noqa: E402
from fedcmi_flwr.models.multimodal import MultimodalModel  # noqa: E402
from fedcmi_flwr.types import Batch  # noqa: E402

EPOCHS = 10
Step = Callable[[], object]


def ours(
    model: MultimodalModel, samples: Samples, batch: Batch, method: Method, known: bool
) -> Step:
    """Return this project's step, as ``train`` takes it."""
    settings = on.settings(len(batch.labels))
    local = begin_round(model, samples, method, settings, on.ROUND, 0, on.RECEIVED)
    local = local if known else replace(local, features={})
    objective = LocalObjective(model, method, local, "fedcmi")
    optimizer = new_optimizer(model.train(), settings, settings.lr)
    return lambda: step(model, batch, objective, optimizer)


def plain(model: MultimodalModel, batch: Batch, method: Method) -> Step:
    """Return the plain step."""
    training = PlainTraining(
        model, method, on.settings(len(batch.labels)), on.DOMINANT, on.TEMPERATURE
    )
    return lambda: training.step(batch)


def variants(device: torch.device, batch_size: int, size: int) -> dict[str, Step]:
    """Return every row's step, each on a model of its own."""
    samples, received = on.made_up_samples(batch_size, size), on.new_model(size)
    batch = _whole(samples, device)
    found: dict[str, Step] = {}
    for label, method in (("KD", on.WITH_KD), ("no KD", on.WITHOUT_KD)):
        found[f"plain, {label}"] = plain(on.placed(received, device, "fp32"), batch, method)
    for precision in ("fp32", "bf16"):
        for label, method, known in (
            ("KD", on.WITH_KD, False),
            ("KD, known", on.WITH_KD, True),
            ("no KD", on.WITHOUT_KD, False),
        ):
            model = on.placed(received, device, precision)
            found[f"{precision}, {label}"] = ours(model, samples, batch, method, known)
        measured = on.placed(received, device, precision)
        found[f"{precision}, statistics"] = lambda model=measured: measure(model, [batch])
    return found


def _whole(samples: Samples, device: torch.device) -> Batch:
    return next(samples.batches(len(samples), on.NAMES, device))


def check(device: torch.device, size: int) -> None:
    """Raise SystemExit unless the plain step and ours train the same."""
    samples, received = on.made_up_samples(2, size), on.new_model(size)
    batch = _whole(samples, device)
    settings = on.settings(2)
    method, model = on.WITH_KD, on.placed(received, device, "fp32")
    training = PlainTraining(
        on.placed(received, device, "fp32"), method, settings, on.DOMINANT, on.TEMPERATURE
    )
    local = begin_round(model, samples, method, settings, on.ROUND, 0, on.RECEIVED)
    objective = LocalObjective(model, method, local, "fedcmi")
    optimizer = new_optimizer(model.train(), settings, settings.lr)
    for _ in range(2):
        expected, found = training.step(batch), float(step(model, batch, objective, optimizer))
        if abs(found - expected) > 2e-3 * abs(expected):
            raise SystemExit(
                f"the plain step's loss is {expected}, ours {found}: they do not train the same."
            )


def table(times: on.Times) -> list[str]:
    """Return the rows."""
    lines = [
        f"{'step':<12}{'against plain, KD':>20}{'against plain, no KD':>24}{'KD adds':>10}{'known':>8}{'10 epochs':>12}"
    ]
    lines.append(
        f"{'plain':<12}{'1.00 x':>20}{'1.00 x':>24}{_added(times, 'plain, KD', 'plain, no KD'):>10}"
    )
    for precision in ("fp32", "bf16"):
        with_kd, without = f"{precision}, KD", f"{precision}, no KD"
        speeds = [_ratio(times, "plain, KD", with_kd), _ratio(times, "plain, no KD", without)]
        turns = zip(
            times[f"{precision}, statistics"],
            times[f"{precision}, KD, known"],
            times[without],
            strict=True,
        )
        epochs = median(
            (statistics + EPOCHS * known) / (EPOCHS * floor) - 1
            for statistics, known, floor in turns
        )
        known = _added(times, f"{precision}, KD, known", without)
        lines.append(
            f"{precision:<12}{speeds[0]:>20}{speeds[1]:>24}{_added(times, with_kd, without):>10}{known:>8}"
            f"{f'{epochs:.1%}':>12}"
        )
    return lines


def _ratio(times: on.Times, slow: str, fast: str) -> str:
    typical, best = on.ratio(times, slow, fast)
    return f"{typical:.2f} x ({best:.2f})"


def _added(times: on.Times, more: str, less: str) -> str:
    return f"{on.ratio(times, more, less)[0] - 1:.1%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10)
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
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.cpu else "cpu")
    batch_size = arguments.batch or (64 if device.type == "cuda" else 8)
    check(device, arguments.size)
    steps = variants(device, batch_size, arguments.size)
    times = on.paired(steps, device, arguments.repetitions, warm_up=1)
    on.say(
        f"one step of two ResNet-18, {batch_size} samples a batch, {on.describe(device)}, torch "
        f"{torch.__version__}"
    )
    for line in table(times):
        on.say(line)
    for name, taken in times.items():
        on.say(f"  {name:<20}median {median(taken) * 1e3:8.1f} ms, best {min(taken) * 1e3:8.1f} ms")
    if device.type == "cpu":
        on.say("GPU rows: unmeasured")


if __name__ == "__main__":
    main()
