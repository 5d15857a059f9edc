"""What the benchmarks of training train: two ResNet-18 on made-up samples of CREMA-D's shapes."""

import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from client_app.train import Received
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.methods import CrossModalInfiltration
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.placement import place

AUDIO = ModalitySpec("audio", "spectrogram", (1, 257, 299), "float16")
SIZE = 224
"""Pixels of a frame's side; others are for trying a script."""
NAMES, CLASSES = ("audio", "visual"), 6
DOMINANT = "audio"
"""The one that teaches on CREMA-D."""
TEMPERATURE = {"visual": torch.linspace(0.6, 1.0, CLASSES)}
RECEIVED = Received(Dominance(DOMINANT, {}, TEMPERATURE))
ROUND = 2
"""The first with a teacher."""
WITH_KD, WITHOUT_KD = CrossModalInfiltration(), CrossModalInfiltration(lambda_=0.0)


def settings(batch_size: int, epochs: int = 1) -> TrainingConfig:
    """Return CREMA-D's local training."""
    return TrainingConfig(
        seed=0, num_server_rounds=ROUND, local_epochs=epochs, batch_size=batch_size, lr=1e-3, lr_min=0.0,
        lr_decay_start=-1, momentum=0.9, weight_decay=1e-4,
    )  # fmt: skip


def visual(size: int) -> ModalitySpec:
    """Return three frames of ``size`` x ``size`` pixels."""
    return ModalitySpec("visual", "frames", (3, 3, size, size), "uint8", 127.5, 60.0)


def new_model(size: int = SIZE) -> MultimodalModel:
    """Return FedCMI's model, always with the same weights."""
    torch.manual_seed(0)
    encoders = dict.fromkeys(NAMES, "resnet18")
    return MultimodalModel(
        ModelSpec(NAMES, CLASSES, 512, encoders, "linear", "concat", WITH_KD.structure),
        [AUDIO, visual(size)],
    )


def placed(model: MultimodalModel, device: torch.device, precision: str) -> MultimodalModel:
    """Return a copy of a model where and how a node would train it."""
    own = copy.deepcopy(model)
    place(own, device, precision)
    return own


def made_up_samples(count: int, size: int = SIZE) -> Samples:
    """Return samples in memory."""
    rng, frames = np.random.default_rng(0), visual(size)
    arrays = {
        "audio": rng.standard_normal((count, *AUDIO.shape), dtype=np.float32).astype(np.float16),
        "visual": rng.integers(0, 256, (count, *frames.shape), dtype=np.uint8),
    }
    has, rows = np.ones((count, 2), dtype=bool), np.arange(count)
    return Samples((AUDIO, frames), arrays, rows % CLASSES, np.full(count, "g"), has, rows)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes.

    Until the GPU has done it, or in CPU time, so that other work does not count.
    """
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    action()
    if on_gpu:
        torch.cuda.synchronize(device)
    return clock() - started


Times = dict[str, list[float]]
"""Variant -> seconds in each repetition."""


def paired(
    variants: dict[str, Callable[[], object]], device: torch.device, repetitions: int, warm_up: int
) -> Times:
    """Measure the variants in turns, so that other work on the machine meets them all.

    Every other turn backwards.
    """
    times: Times = {name: [] for name in variants}
    for turn in range(warm_up + repetitions):
        for name in list(variants)[:: 1 if turn % 2 else -1]:
            taken = seconds(variants[name], device)
            if turn >= warm_up:
                times[name].append(taken)
    return times


def ratio(times: Times, slow: str, fast: str) -> tuple[float, float]:
    """Return the median of the repetitions' ratios, and the ratio of the best times."""
    pairs = zip(times[slow], times[fast], strict=True)
    return median(a / b for a, b in pairs), min(times[slow]) / min(times[fast])


def say(line: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def describe(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads"
