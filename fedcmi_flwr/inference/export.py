"""A trained model as graphs for other runtimes.

One for each subset of its modalities, batches of any size.

A graph takes samples as a prepared directory stores them (``graph.py``). It gives
``probabilities`` [samples, classes], calibrated as the model's file says, and ``scores``, the
sums of log-probabilities that they come from. Each graph is run by its own runtime
(``graph_formats.py``) and compared with the :class:`Predictor` before anything is left at the
place that was asked for.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.evaluation.decision import Subset, subset_name, subsets
from fedcmi_flwr.inference.graph import SubsetGraph
from fedcmi_flwr.inference.graph_formats import WRITERS, ExportError, Run
from fedcmi_flwr.inference.predictor import Predictor, find_model
from fedcmi_flwr.machine.atomic_files import new_directory
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.file import CARD
from fedcmi_flwr.types import Modality

TOLERANCE = 1e-4
"""Largest difference of a probability, or of a score relative to its size where that is above 1."""
BATCHES = (1, 5)
"""Sizes that a graph is checked with."""
EXAMPLES = 3
"""Samples that a graph is traced with."""
DESCRIPTION = "export.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_model(
    path: Path, out: Path, kind: str = "onnx", chosen: Sequence[Sequence[Modality]] | None = None
) -> list[Path]:
    """Write a model's graphs, and ``export.json``, which describes them.

    Parameters
    ----------
    path
        A run directory, or its model file.
    out
        The directory to make; nothing is there before every graph is checked.
    kind
        "onnx": ``.onnx`` files; "torch": ``.pt2`` files of ``torch.export``, which are loaded by
        unpickling.
    chosen
        Subsets of modalities; None: all that decisions are made for.

    Returns
    -------
    The graphs and the description.

    Raises
    ------
    ExportError
        The model has an operation that cannot be exported, or a graph differs from the model.
    MissingExtraError
        A package of the extra ``export`` is not installed.
    FileExistsError
        There is something at ``out``.
    ValueError
        A path that is no model's, or modalities that it does not have.
    """
    if kind not in WRITERS:
        raise ValueError(f"format {kind!r}: must be one of {', '.join(WRITERS)}.")

    with needs("export"):
        for name in PACKAGES if kind == "onnx" else ():
            importlib.import_module(name)

    if out.exists():
        raise FileExistsError(f"{out}: is there already; remove it, or choose another directory.")

    predictor = Predictor.load(path, "cpu")
    predictor.model.merge_adapters()
    for names in chosen or ():
        predictor.decisions.of(names)  # raises for what the model does not have

    wanted = (
        subsets(predictor.modalities)
        if chosen is None
        else [_ordered(predictor, names) for names in chosen]
    )
    with new_directory(out) as partial:
        described = [_export_subset(predictor, subset, kind, partial) for subset in wanted]
        description = _describe(predictor, find_model(path), kind, described)
        (partial / DESCRIPTION).write_text(
            json.dumps(description, indent=2) + "\n", encoding="utf-8"
        )
        card = find_model(path).with_name(CARD)
        if card.is_file():
            shutil.copyfile(card, partial / CARD)

    return [*(out / graph["file"] for graph in described), out / DESCRIPTION]


def _ordered(predictor: Predictor, names: Sequence[Modality]) -> Subset:
    return tuple(name for name in predictor.modalities if name in names)


def _export_subset(
    predictor: Predictor, subset: Subset, kind: str, directory: Path
) -> dict[str, Any]:
    """Write and check one graph; return its part of the description."""
    graph = SubsetGraph(predictor, subset).eval()
    ending, write, read = WRITERS[kind]
    path = directory / f"{subset_name(subset)}{ending}"
    examples = tuple(
        random_samples(predictor.input(name), predictor, EXAMPLES, 0) for name in subset
    )
    decision = predictor.decisions.of(subset)
    about = {
        "modalities": list(subset),
        "inputs": [
            {"name": spec.name, "kind": spec.kind, "shape": list(spec.shape), "dtype": spec.dtype}
            for spec in graph.specs
        ],
        "rule": decision.rule,
        "temperature": decision.temperature,
        "calibrated": decision.calibrated,
    }
    try:
        with warnings.catch_warnings(action="ignore"), _quiet():  # the exporters' own affairs
            write(graph, subset, examples, path, {**about, "classes": list(predictor.classes)})
    except Exception as error:  # of many kinds: whatever the exporter stumbles over
        encoders = {name: predictor.model.spec.encoders[name] for name in subset}
        raise ExportError(
            f"{subset_name(subset)}: {encoders} cannot be exported to {kind}: {error}"
        ) from error

    worst, fewest = (
        _check(predictor, subset, path, read),
        _fewest_samples(predictor, subset, path, read),
    )

    return {"file": path.name, **about, "largest_difference": worst, "fewest_samples": fewest}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' progress messages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def random_samples(spec: ModalitySpec, predictor: Predictor, count: int, seed: int) -> Tensor:
    """Return made-up samples in stored units: noise with the data's mean and deviation, or tokens.

    Parameters
    ----------
    spec
        What they are samples of.
    predictor
        The model, whose encoder says which tokens there are.
    count
        Of samples.
    seed
        Of the noise.

    Returns
    -------
    [count, *shape] in the stored dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, dtype = (count, *spec.shape), getattr(torch, spec.dtype)
    if spec.kind == "tokens":
        words = _vocabulary_size(predictor.model.branch(spec.name).encoder.trunk)
        return torch.randint(0, words, shape, generator=generator).to(dtype)

    mean, std = (
        torch.tensor(value).reshape(-1, *[1] * spec.axes_behind) for value in (spec.mean, spec.std)
    )
    noise = mean + std * torch.randn(shape, generator=generator)

    return noise.to(dtype) if dtype.is_floating_point else noise.clamp(0, 255).to(dtype)


def _vocabulary_size(trunk: nn.Module) -> int:
    """Return how many tokens a trunk knows; its table of positions may be larger."""
    find: Any = getattr(trunk, "get_input_embeddings", None)  # of transformers' models
    if find is not None:
        return int(find().num_embeddings)

    tables = (layer for layer in trunk.modules() if isinstance(layer, nn.Embedding))

    return max(table.num_embeddings for table in tables)


def _check(
    predictor: Predictor, subset: Subset, path: Path, read: Callable[[Path, Subset], Run]
) -> float:
    """Compare a written graph with the model on random samples; return the largest difference."""
    run, graph, worst = read(path, subset), SubsetGraph(predictor, subset), 0.0
    for size in BATCHES:
        samples = {
            name: random_samples(predictor.input(name), predictor, size, size).numpy()
            for name in subset
        }
        probabilities, found = run(list(samples.values()))
        with torch.inference_mode():
            _, expected = graph(*(torch.from_numpy(array) for array in samples.values()))

        differences = (
            np.abs(probabilities - predictor.predict_proba(samples)),
            np.abs(found - expected.numpy()) / np.maximum(np.abs(expected.numpy()), 1),
        )
        largest = max(float(difference.max()) for difference in differences)
        if not largest <= TOLERANCE or not np.isfinite(found).all():
            raise ExportError(
                f"{path.name}: differs from the model by {largest:.2g} on {size} random samples, "
                f"{TOLERANCE} allowed; nothing was written."
            )

        worst = max(worst, largest)

    return worst


def _fewest_samples(
    predictor: Predictor, subset: Subset, path: Path, read: Callable[[Path, Subset], Run]
) -> int:
    """Return 0 where a written graph takes a batch without samples.

    1 where it has an operation that does not.
    """
    nothing = [random_samples(predictor.input(name), predictor, 0, 0).numpy() for name in subset]
    try:
        probabilities, _ = read(path, subset)(nothing)
    except Exception:  # of many kinds: whatever the runtime stumbles over
        return 1

    return 0 if probabilities.shape == (0, len(predictor.classes)) else 1


def _describe(
    predictor: Predictor, model: Path, kind: str, described: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "format": kind,
        "model": model.name,
        "model-sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "rounds": {"finished": predictor.rounds[0], "planned": predictor.rounds[1]},
        "classes": list(predictor.classes),
        "outputs": {
            "probabilities": "[samples, classes], each row adds up to 1",
            "scores": "[samples, classes], weighted sums of log-probabilities: probabilities are the "
            "softmax of scores / temperature",
        },
        "inputs": "[samples, *shape] as stored in the prepared directory, not normalised; any number "
        "of samples, from fewest_samples of the graph on",
        "recipes": {
            name: dict(predictor.recipes[name])
            for name in predictor.modalities
            if name in predictor.recipes
        },
        "graphs": [dict(graph) for graph in described],
    }
