"""``fedcmi predict`` and ``fedcmi export``: thin commands, as in ``cli.py``."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcmi_flwr.terminal import console, fail

if TYPE_CHECKING:
    from fedcmi_flwr.inference import Predictor
    from fedcmi_flwr.predictions import Chunk

ModelArgument = Annotated[Path, typer.Argument(help="A run directory, or its model.safetensors.")]


class Device(StrEnum):
    """Where a model predicts."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Format(StrEnum):
    """What a model is exported to."""

    ONNX = "onnx"
    TORCH = "torch"


def predict(
    model: ModelArgument,
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Sound, image, video, text files of one sample; or directories of them; or NAME=FILE."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A prepared directory, instead of files.")] = None,
    split: Annotated[str, typer.Option(help="With --data: which split.")] = "test",
    modalities: Annotated[str | None, typer.Option(help="Only these, joined by '+'.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute; auto: a GPU if there is one.")] = Device.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Say everything as JSON.")] = False,
) -> None:
    """Classify files, or a prepared directory, by a trained model and any of its modalities."""
    from fedcmi_flwr.inference import Predictor
    from fedcmi_flwr.predictions import accuracy, predictions, prepared_chunks

    wanted = modalities.split("+") if modalities else None
    try:
        if bool(files) == (data is not None):
            raise ValueError("give files to predict, or a prepared directory as --data, and not both.")
        predictor = Predictor.load(model, device, wanted)
        chunks = prepared_chunks(predictor, data, split) if data else _chunks(predictor, model, files or [])
        found = list(predictions(predictor, chunks))
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error
    if as_json:
        known: dict[str, Any] = {"accuracy": accuracy(found)} if data else {}
        sys.stdout.write(json.dumps({**known, "predictions": [each.to_json() for each in found]}, indent=2) + "\n")
    elif data:
        seen = Counter("+".join(prediction.modalities) for prediction in found)
        by = ", ".join(f"{count} by {names}" for names, count in seen.items())
        console.print(f"accuracy {accuracy(found):.1%} on the {split} split: {len(found)} samples ({by})", markup=False)
    else:
        for prediction in found:
            console.print(prediction.line(), markup=False)


def _chunks(predictor: "Predictor", model: Path, files: Sequence[str]) -> "Iterator[Chunk]":
    """Make samples of files, as the model says that its own were made."""
    from data_prep import raw_samples

    lacking = [name for name in predictor.modalities if name not in predictor.recipes]
    if lacking:
        raise ValueError(
            f"{model}: does not say how files become samples of {lacking[0]!r}, since the data it was trained on were "
            "prepared by an earlier release, or another program. Prepare them again and train on them, or give "
            "prepared samples as --data."
        )
    recipes = {name: predictor.recipes[name] for name in predictor.modalities}
    return raw_samples.chunks(raw_samples.match(files, recipes), predictor.inputs, recipes)


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    format_: Annotated[Format, typer.Option("--format", help="ONNX files, or torch.export's.")] = Format.ONNX,
    modalities: Annotated[
        list[str] | None,
        typer.Option(help="Graph of these, joined by '+'; repeatable; default: every subset that decisions are for."),
    ] = None,
) -> None:
    """Write a trained model as one checked graph for each subset of its modalities."""
    from fedcmi_flwr.export import export_model

    subsets = [tuple(names.split("+")) for names in modalities] if modalities else None
    try:
        for path in export_model(model, out, format_, subsets):
            console.print(str(path), markup=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error
