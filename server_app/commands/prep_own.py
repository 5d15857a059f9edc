"""``fedcmi prep manifest`` and ``fedcmi prep npz``: data sets of one's own, from files or arrays."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server_app.commands.preparing import MaxBadOption, OutOption, WorkersOption, prepare_and_show

if TYPE_CHECKING:
    from data_prep.pipeline.execution import Execution

prep_own = typer.Typer()


class Header(StrEnum):
    """Whether a table starts with names."""

    YES = "yes"
    NO = "no"


@prep_own.command("manifest")
def prep_manifest(
    manifest: Annotated[
        Path, typer.Option(help="CSV or Parquet: id, label, split, group, a column a modality.")
    ],
    raw: Annotated[Path, typer.Option(help="Directory that the paths are relative to.")],
    out: OutOption,
    modality: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=KIND, two or more times: audio, waveform, image, video, text, series or "
            "vector. "
            "NAME=vector:COLUMN,COLUMN takes numbers from the manifest: a sample with all of "
            "them empty (or NaN) lacks the modality, one with some of them empty counts "
            "against --max-bad; nothing is filled in. NAME=table:COLUMN,COLUMN takes numbers "
            "and categories; empty cells are marked as missing."
        ),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="device or server, which may have one modality, one split, and not all classes.",
        ),
    ] = None,
    federation: Annotated[
        Path | None,
        typer.Option(help="What `fedcmi prep describe` wrote: decides classes, kinds and sizes."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels in index order, joined by ','; default: sorted.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Of images and a video's frames; default: 224.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Of sound; shorter ones are repeated (waveforms: padded), longer ones cut. "
            "Default: 3."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Of a video, at the centres of equal parts; default: 3.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Of a text at most; default: 40.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="BERT's: directory with vocab.txt, or name on the hub; auto:NAME_OR_DIR, of any "
            "Hugging Face model; or hashed:BUCKETS. Default: BERT's uncased."
        ),
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="Of a series, resampled from the whole of it; default: 128.")
    ] = None,
    header: Annotated[
        Header | None,
        typer.Option(
            help="Whether CSV files start with names; default: where no cell is a number."
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER: which stream of files with several; default: the one flagged "
            "default."
        ),
    ] = None,
    categories: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a table's column: COLUMN=A,B or, where they are those of the train split, "
            "COLUMN; with ... as the last one (COLUMN=A,B,...) all others are one. Default: "
            "columns of words, and an unknown one is an error."
        ),
    ] = None,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """Prepare your own data, any two or more modalities.

    Cells are paths, texts, numbers or categories.
    """
    from data_prep.sets import manifest as own_data
    from data_prep.sets.federation import read_federation
    from data_prep.sets.manifest_kinds import parse_modalities, parse_streams
    from data_prep.sets.table_columns import parse_categories

    sizes = {
        "image_size": image_size,
        "seconds": seconds,
        "frames": frames,
        "tokens": tokens,
        "points": points,
    }
    given = {
        **sizes,
        "tokenizer": tokenizer,
        "header": None if header is None else header is Header.YES,
    }

    def make(execution: "Execution") -> Path:
        agreed = None if federation is None else read_federation(federation)
        kinds = parse_modalities(modality or [], fewest=2 if role is None else 0)
        known = kinds if agreed is None else agreed.kinds
        by_name = {
            "streams": parse_streams(stream or [], known),
            "categories": parse_categories(categories or [], known),
        }
        chosen = {name: value for name, value in given.items() if value is not None}

        return own_data.prepare(
            manifest,
            raw,
            out,
            kinds,
            sizes=chosen | {name: found for name, found in by_name.items() if found},
            classes=classes.split(",") if classes is not None else None,
            role=role,
            federation=agreed,
            execution=execution,
        )

    prepare_and_show(make, workers, max_bad)


@prep_own.command("npz")
def prep_npz(
    file: Annotated[
        Path,
        typer.Argument(help="An array [samples, ...] a modality, and y, split and perhaps group."),
    ],
    out: OutOption,
    modalities: Annotated[
        str | None, typer.Option(help="Only these arrays, joined by ','; default: all.")
    ] = None,
    label: Annotated[
        str, typer.Option(help="Array with the classes: y, or another one, y_...")
    ] = "y",
    classes: Annotated[
        str | None, typer.Option(help="Names of the sorted labels, joined by ','.")
    ] = None,
    max_bad: Annotated[
        int, typer.Option(min=0, help="Samples with some values missing to put up with.")
    ] = 0,
) -> None:
    """Arrays of one NPZ file.

    [features] is a vector, [time, channels] a series, [height, width, 1 or 3] an image.

    uint8 [height, width] is an image too. A group of -1 is unknown. A sample whose values of a
    modality are all NaN lacks it; one with some NaN counts against --max-bad; nothing is filled
    in.
    """
    from data_prep.sets import npz

    make = partial(
        npz.prepare,
        file,
        out,
        modalities=modalities.split(",") if modalities is not None else None,
        label=label,
        classes=classes.split(",") if classes is not None else None,
    )
    prepare_and_show(
        make, 1, max_bad
    )  # rows are cut, not decoded: processes would take longer to start
