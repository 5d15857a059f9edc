"""Graphs as files of other runtimes: how each format is written, and read back to be run.

ONNX files hold no code. A ``.pt2`` file of ``torch.export`` holds its sample inputs pickled, and
``torch.export.load`` unpickles them: load only those of people you trust. Here only files are
loaded that were written a moment before.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedcmi_flwr.evaluation.decision import Subset

OUTPUTS = ("probabilities", "scores")
_OPSET = 20

Outputs = tuple[NDArray[Any], NDArray[Any]]
Run = Callable[[Sequence[NDArray[Any]]], Outputs]


class ExportError(RuntimeError):
    """A model that cannot be exported, or whose graph computes something else."""


def _write_onnx(
    graph: nn.Module,
    subset: Subset,
    examples: tuple[Tensor, ...],
    path: Path,
    about: Mapping[str, Any],
) -> None:
    program = torch.onnx.export(
        graph,
        examples,
        dynamo=True,
        input_names=list(subset),
        output_names=list(OUTPUTS),
        dynamic_shapes=_dynamic(examples),
        opset_version=_OPSET,
        verbose=False,
    )
    if program is None:
        raise ExportError("the exporter returned nothing")

    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    program.save(path)


def _read_onnx(path: Path, subset: Subset) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(arrays: Sequence[NDArray[Any]]) -> Outputs:
        probabilities, found = session.run(list(OUTPUTS), dict(zip(subset, arrays, strict=True)))
        return probabilities, found

    return run


def _write_torch(
    graph: nn.Module,
    subset: Subset,
    examples: tuple[Tensor, ...],
    path: Path,
    about: Mapping[str, Any],
) -> None:
    program = torch.export.export(graph, examples, dynamic_shapes=_dynamic(examples))
    torch.export.save(
        program, path, extra_files={"about.json": json.dumps({**about, "order": list(subset)})}
    )


def _read_torch(path: Path, subset: Subset) -> Run:
    with warnings.catch_warnings(action="ignore"):  # of torch's own way to read
        module = torch.export.load(path).module()

    def run(arrays: Sequence[NDArray[Any]]) -> Outputs:
        with torch.inference_mode():
            probabilities, found = module(*(torch.from_numpy(array) for array in arrays))

        return probabilities.numpy(), found.numpy()

    return run


def _dynamic(examples: Sequence[Tensor]) -> tuple[tuple[dict[int, Any], ...]]:
    """Say that the first axis of every input is a batch of any size; they are one ``*stored``."""
    batch = torch.export.Dim("batch")
    return (tuple({0: batch} for _ in examples),)


WRITERS: dict[str, tuple[str, Callable[..., None], Callable[[Path, Subset], Run]]] = {
    "onnx": (".onnx", _write_onnx, _read_onnx),
    "torch": (".pt2", _write_torch, _read_torch),
}
"""Format -> ending, writer, and what reads a file back to run it."""
