"""``fedcmi predict`` and ``fedcmi export``: a trained model in use."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server_app.commands.terminal import console, errors, fail

if TYPE_CHECKING:
    from fedcmi_flwr.inference.predictions import Prediction
    from fedcmi_flwr.inference.predictor import Predictor

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
        typer.Argument(
            help="Sound, image, video, text files of one sample; or directories of them; or "
            "NAME=FILE."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A prepared directory, instead of files.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --data: which split; default: test.")
    ] = None,
    modalities: Annotated[str | None, typer.Option(help="Only these, joined by '+'.")] = None,
    device: Annotated[
        Device, typer.Option(help="Where to compute; auto: a GPU if there is one.")
    ] = Device.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Say everything as JSON.")] = False,
) -> None:
    """Classify files, or a prepared directory, by a trained model and any of its modalities."""
    from fedcmi_flwr.inference.predictor import Predictor

    wanted = None if modalities is None else modalities.split("+")
    try:
        if bool(files) == (data is not None):
            raise ValueError(
                "give files to predict, or a prepared directory as --data, and not both."
            )
        if split is not None and data is None:
            raise ValueError(
                f"--split {split}: is of a prepared directory; give one as --data, or leave it out."
            )

        predictor = Predictor.load(model, device, wanted)
        _say_how_far(model, *predictor.rounds)
        if data is not None:
            _predict_prepared(predictor, data, split or "test", as_json)
        else:
            _predict_files(predictor, model, files or [], as_json)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error


def _say_how_far(model: Path, finished: int, planned: int) -> None:
    """Say that a model is that of an unfinished run."""
    if finished < planned:
        errors.print(
            f"{model}: its run is not finished; the model is that of round {finished} of {planned}."
        )


def _predict_prepared(predictor: "Predictor", directory: Path, split: str, as_json: bool) -> None:
    from fedcmi_flwr.inference.predictions import accuracy, predictions, prepared_chunks

    found = list(predictions(predictor, prepared_chunks(predictor, directory, split)))
    if as_json:
        _write_json(found, accuracy=accuracy(found))
        return

    seen = Counter("+".join(prediction.modalities) for prediction in found)
    by = ", ".join(f"{count} by {names}" for names, count in seen.items())
    console.print(
        f"accuracy {accuracy(found):.1%} on the {split} split: {len(found)} samples ({by})"
    )


def _predict_files(
    predictor: "Predictor", model: Path, files: Sequence[str], as_json: bool
) -> None:
    """Say what files are, as they are read; end with those that cannot be."""
    unreadable: dict[Path, str] = {}
    found = _file_predictions(predictor, model, files, unreadable)
    if as_json:
        read = list(found)  # before what cannot be read is known
        _write_json(read, unreadable={str(path): reason for path, reason in unreadable.items()})
    else:
        for prediction in found:
            console.print(prediction.line())

    if unreadable:
        listed = "".join(f"\n{path}: {reason}" for path, reason in unreadable.items())
        raise ValueError(f"{len(unreadable)} of the files cannot be read:{listed}")


def _write_json(found: "Sequence[Prediction]", **more: object) -> None:
    sys.stdout.write(
        json.dumps({**more, "predictions": [each.to_json() for each in found]}, indent=2) + "\n"
    )


def _file_predictions(
    predictor: "Predictor", model: Path, files: Sequence[str], unreadable: dict[Path, str]
) -> "Iterator[Prediction]":
    """Make samples of files, as the model says that its own were made, and predict them."""
    from data_prep.files import raw_samples
    from fedcmi_flwr.inference.predictions import predictions

    lacking = [name for name in predictor.modalities if name not in predictor.recipes]
    if lacking:
        raise ValueError(
            f"{model}: does not say how files become samples of {lacking[0]!r}, since the data it "
            "was trained on were prepared by an earlier release, or another program. Prepare "
            "them again and train on them, or give prepared samples as --data."
        )

    recipes = {name: predictor.recipes[name] for name in predictor.modalities}
    matched = raw_samples.match(files, recipes)
    if matched.skipped:
        endings = Counter(path.suffix or "no ending" for path in matched.skipped)
        listed = ", ".join(f"{ending} {count}" for ending, count in endings.items())
        errors.print(f"skipped {len(matched.skipped)} files that the model does not take: {listed}")

    return predictions(
        predictor, raw_samples.chunks(matched.samples, predictor.inputs, recipes, unreadable)
    )


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    format_: Annotated[
        Format,
        typer.Option("--format", help="ONNX files, or torch.export's, to load by unpickling."),
    ] = Format.ONNX,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            help="Graph of these, joined by '+'; repeatable; default: every subset that decisions "
            "are for."
        ),
    ] = None,
) -> None:
    """Write a trained model as one checked graph for each subset of its modalities."""
    from fedcmi_flwr.inference.export import export_model

    subsets = [tuple(names.split("+")) for names in modalities] if modalities else None
    try:
        written = export_model(model, out, format_, subsets)
        _say_how_far(model, **json.loads(written[-1].read_text(encoding="utf-8"))["rounds"])
        for path in written:
            console.print(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error
