"""What tests compare against.

The equations of the method in plain NumPy, one sample at a time, and tiny subjects.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import (
    DatasetSpec,
    ModalitySpec,
    array_path,
    labels_path,
    samples_path,
    write_spec,
)
from fedcmi_flwr.methods import LocalRound
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.types import Batch

torch.set_num_threads(1)  # the subjects are tiny: more threads only wait for each other
Array = NDArray[Any]
SHAPE = (1, 16, 16)
"""Shape of one sample of every tiny modality."""


def softmax(logits: Array) -> Array:
    """Return the softmax of one sample's logits."""
    exponentials = [np.exp(value - max(logits)) for value in logits]
    return np.array([value / sum(exponentials) for value in exponentials])


def cross_entropy(logits: Array, labels: Array, rows: Array) -> float:
    """Return the mean of -ln softmax(logits)[label] over the samples in ``rows``; 0 without any."""
    losses = [-np.log(softmax(x)[y]) for x, y, row in zip(logits, labels, rows, strict=True) if row]
    return float(np.mean(losses)) if losses else 0.0


def distillation(
    teacher: Array, student: Array, temperature: Array, rows: Array, scaled: bool
) -> float:
    """Return the mean over ``rows`` of -sum_c softmax(teacher / T) ln softmax(student / T), times
    T^2 if scaled.
    """
    losses = []
    for index in range(len(teacher)):
        if rows[index]:
            t = float(temperature[index])
            target, guess = softmax(teacher[index] / t), softmax(student[index] / t)
            loss = -sum(target[c] * np.log(guess[c]) for c in range(len(target)))
            losses.append(loss * t * t if scaled else loss)
    return float(np.mean(losses)) if losses else 0.0


def class_statistics(logits: Array, labels: Array, rows: Array) -> tuple[Array, Array]:
    """Return, per class, the sum of true-class probabilities and the count, over the samples in
    ``rows``.
    """
    total, count = np.zeros(logits.shape[1]), np.zeros(logits.shape[1], dtype=np.int64)
    for x, y, row in zip(logits, labels, rows, strict=True):
        if row:
            total[y] += softmax(x)[y]
            count[y] += 1
    return total, count


def temperature(ratio: Sequence[float], kappa: float) -> list[float]:
    """Return T per class; NaN ratios are classes without samples."""
    seen = [r for r in ratio if not np.isnan(r)]
    found = []
    for r in ratio:
        lags = bool(seen) and r > sum(seen) / len(seen)
        found.append(1 / (1 + kappa * np.log(r / (sum(seen) / len(seen)))) if lags else 1.0)
    return found


def decide(
    total: Mapping[str, Array],
    count: Mapping[str, Array],
    kappa: float,
    dominant: str | None = None,
) -> tuple[str | None, dict[str, list[float]], dict[str, list[float]]]:
    """Return the dominant modality, and r and T of each weak one, from sums and counts."""
    names = [name for name in count if sum(count[name]) > 0]
    p = {
        n: [max(s / c, 1e-6) if c else np.nan for s, c in zip(total[n], count[n], strict=True)]
        for n in names
    }
    classes = [
        c
        for c in range(len(next(iter(total.values()))))
        if all(not np.isnan(p[n][c]) for n in names)
    ]
    if len(names) < 2 or not classes:
        return None, {}, {}
    scores = {n: sum(np.log(p[n][c]) for c in classes) / len(classes) for n in names}
    d = dominant or max(names, key=lambda n: scores[n])
    ratio = {n: [a / b for a, b in zip(p[d], p[n], strict=True)] for n in names if n != d}
    return d, ratio, {n: temperature(ratio[n], kappa) for n in ratio}


def fill(u: Array, q: Array, present: Array) -> Array:
    """Return the fusion slots.

    They are u where present, else the mean of the q of what is present, else zeros.
    """
    slots = np.array(u)
    for b in range(u.shape[0]):
        others = [q[b, m] for m in range(u.shape[1]) if present[b, m]]
        for m in range(u.shape[1]):
            if not present[b, m]:
                slots[b, m] = sum(others) / len(others) if others else 0
    return slots


def weighted_mean(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """Return sum_k n_k w_k / sum_k n_k, element by element."""
    flat = [array.ravel() for array in arrays]
    mean = [
        sum(n * w[i] for n, w in zip(weights, flat, strict=True)) / sum(weights)
        for i in range(flat[0].size)
    ]
    return np.array(mean).reshape(arrays[0].shape)


def inputs(*names: str) -> list[ModalitySpec]:
    """Return tiny image modalities."""
    return [ModalitySpec(name, "image", SHAPE, "float32") for name in names]


def model(
    modalities: Sequence[str] = ("audio", "visual"),
    owned: Sequence[str] | None = None,
    seed: int = 0,
    **changes: object,
) -> MultimodalModel:
    """Return a tiny model in double precision: D = 4, C = 3.

    ``changes`` are fields of ModelSpec.
    """
    names = tuple(modalities)
    fields: dict[str, Any] = {
        "modalities": names, "num_classes": 3, "embedding_dim": 4, "encoders": dict.fromkeys(names, "small-cnn"),
        "projector": "linear", "fusion": "concat", "structure": "two-projectors",
    }  # fmt: skip
    torch.manual_seed(seed)
    return MultimodalModel(ModelSpec(**{**fields, **changes}), inputs(*(owned or names))).double()


def batch(
    present: Sequence[Sequence[int]],
    owned: Sequence[int] = (0, 1),
    seed: int = 0,
    names: Sequence[str] = (),
) -> Batch:
    """Return a random batch.

    ``present`` [batch][modalities] is over the federation, ``owned`` indexes its columns.
    """
    names = names or ("audio", "visual", "touch")
    generator, mask = torch.Generator().manual_seed(seed), torch.tensor(present, dtype=torch.bool)
    values = {}
    for column in owned:
        x = torch.randn(len(mask), *SHAPE, generator=generator, dtype=torch.float64)
        values[names[column]] = x * mask[:, column].reshape(-1, 1, 1, 1)
    labels = torch.arange(len(mask)) % 3
    return Batch(values, labels, mask, bool(mask[:, list(owned)].all()), torch.arange(len(mask)))


def samples(count: int, modalities: Sequence[str] = ("audio", "visual"), seed: int = 0) -> Samples:
    """Return samples in memory, of three classes in turn, every modality present."""
    rng = np.random.default_rng(seed)
    specs = tuple(inputs(*modalities))
    arrays = {name: rng.normal(size=(count, *SHAPE)).astype(np.float32) for name in modalities}
    has, groups = np.ones((count, len(specs)), dtype=bool), np.full(count, "g")
    return Samples(specs, arrays, np.arange(count) % 3, groups, has, np.arange(count))


def local_round(subject: MultimodalModel, **changes: object) -> LocalRound:
    """Return what a node knows in a round, for a model that is the received one.

    ``changes`` are its fields.
    """
    fields: dict[str, Any] = {
        "owned": subject.owned,
        "unimodal": len(subject.owned) == 1 < len(subject.spec.modalities),
        "global_parameters": [parameter.detach().clone() for parameter in subject.parameters()],
        "teachers": {},
        "dominance": NOBODY,
        "stats": None,
        "log_prior": torch.full((subject.spec.num_classes,), 1 / subject.spec.num_classes).log(),
        "batches": lambda: iter(()),
        "generator": torch.Generator().manual_seed(0),
    }
    return LocalRound(**{**fields, **changes})


def decision(dominant: str | None, **temperatures: Sequence[float]) -> Dominance:
    """Return a server's decision as it arrives on a node."""
    return Dominance(
        dominant, {}, {name: torch.tensor(value) for name, value in temperatures.items()}
    )


Change = Callable[[dict[str, Any]], None]


def untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of metrics.jsonl without what clocks say."""
    return {**record, "seconds": 0, "asking_seconds": 0, "train_seconds": {}}


def prepare(
    directory: Path,
    present: Mapping[str, Array],
    test_present: Mapping[str, Array] | None = None,
    classes: int = 3,
    signal: float = 1.0,
    change: Change | None = None,
) -> Path:
    """Write a prepared directory of images whose mean tells the class.

    ``present`` is [samples] per modality.

    Labels go round the classes; sample i belongs to group i % 5. ``change`` edits the fields of
    ``dataset.json``.
    """
    splits = {"train": present, "test": test_present or present}
    for split, masks in splits.items():
        count = len(next(iter(masks.values())))
        labels, rng = np.arange(count) % classes, np.random.default_rng(len(split))
        (directory / split).mkdir(parents=True, exist_ok=True)
        np.save(labels_path(directory, split), labels)
        for name, mask in masks.items():
            values = rng.normal(size=(count, *SHAPE)) + signal * labels.reshape(-1, 1, 1, 1)
            np.save(
                array_path(directory, split, name),
                (values * mask.reshape(-1, 1, 1, 1)).astype(np.float32),
            )
        with samples_path(directory, split).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label", "group", "modalities", "source"])
            for i in range(count):
                owned = "+".join(name for name, mask in masks.items() if mask[i])
                writer.writerow([f"s{i}", int(labels[i]), f"g{i % 5}", owned, "made up"])
    sizes = {split: len(next(iter(masks.values()))) for split, masks in splits.items()}
    fields: dict[str, Any] = {
        "name": "toy", "task": "classification", "classes": tuple(f"c{c}" for c in range(classes)),
        "modalities": tuple(ModalitySpec(name, "image", SHAPE, "float32", 0.5, 2.0) for name in present),
        "splits": sizes, "settings": {}, "tools": {},
    }  # fmt: skip
    if change is not None:
        change(fields)
    write_spec(directory, DatasetSpec(**fields))
    return directory
