"""``fedcmi prep ...`` and ``fedcmi inspect``: data sets, prepared and looked at."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server_app.commands.terminal import AGAIN, console, end_with_what_was_started, fail

if TYPE_CHECKING:
    from data_prep.pipeline.execution import Execution, Show

prep = typer.Typer(
    no_args_is_help=True, help="Prepare a data set: raw files -> prepared directory."
)

RawOption = Annotated[Path, typer.Option(help="Directory of the raw archive, as it is unpacked.")]
OutOption = Annotated[
    Path, typer.Option(help="Directory to make; a second call goes on where the first stopped.")
]
FrameSizeOption = Annotated[
    int, typer.Option(min=16, help="Pixels of the stored frames, which are squares.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode; default: one per core.")
]
FewWorkersOption = Annotated[
    int, typer.Option(min=1, help="Processes that decode; starting them takes seconds.")
]
MaxBadOption = Annotated[
    int, typer.Option(min=0, help="Samples with unusable files to put up with.")
]
TokenizerOption = Annotated[
    str,
    typer.Option(help="BERT's: directory with vocab.txt, or name on the hub; or hashed:BUCKETS."),
]
ModalityOption = Annotated[
    str | None, typer.Option("--modalities", help="Only these, joined by '+'.")
]


class Header(StrEnum):
    """Whether a table starts with names."""

    YES = "yes"
    NO = "no"


DigitsOption = Annotated[
    str | None,
    typer.Option(
        "--modalities", help="Of audio, visual and contour, joined by '+'. Default: audio+visual."
    ),
]


def _prepare(make: Callable[..., Path], workers: int | None, max_bad: int = 0) -> None:
    """Make a prepared directory under a progress bar; then say how fast it went and what is in it.

    ``make`` takes ``execution``, as the data sets' ``prepare`` does.
    """
    end_with_what_was_started(lambda: AGAIN)

    from data_prep.inspection.progress import prepare_visibly
    from data_prep.pipeline.execution import Execution
    from fedcmi_flwr.machine.workers import usable_cores

    cores = usable_cores()

    def make_and_show(show: "Show") -> Path:
        return make(execution=Execution(workers or cores, max_bad, show))

    try:
        _show_summary(prepare_visibly(console, make_and_show))
    except (OSError, ValueError) as error:
        raise fail(error) from error


def _show_summary(directory: Path) -> None:
    from data_prep.inspection import summary

    console.print(summary.render(summary.summarise(directory)))


def _names(modalities: str | None) -> list[str] | None:
    return modalities.split("+") if modalities else None


@prep.command("av-digits")
def prep_av_digits(
    out: Annotated[
        Path | None, typer.Option(help="Directory to make; default: the cache directory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0; another one needs --out.")] = None,
    audio_snr_db: Annotated[
        float | None, typer.Option(help="Default -15; another one needs --out.")
    ] = None,
    image_noise: Annotated[
        float | None, typer.Option(help="Default 2.5; another one needs --out.")
    ] = None,
    modalities: DigitsOption = None,
    workers: FewWorkersOption = 1,
) -> None:
    """Handwritten digits (scikit-learn) with keypad tones: nothing to download."""
    from data_prep.sets import av_digits
    from fedcmi_flwr.machine.cache import cache_directory

    levels = {"seed": seed, "audio_snr_db": audio_snr_db, "image_noise": image_noise}
    chosen: dict[str, Any] = {name: value for name, value in levels.items() if value is not None}
    if modalities:
        chosen["modalities"] = modalities.split("+")

    if chosen and out is None:
        raise fail(
            f"{', '.join(chosen)}: give --out too; the cache directory holds the default settings."
        )

    _prepare(partial(av_digits.prepare, out or cache_directory() / "av-digits", **chosen), workers)


@prep.command("avmnist")
def prep_avmnist(
    raw: Annotated[Path, typer.Option(help="Directory with recordings/ and t10k-*-ubyte.gz.")],
    out: OutOption,
    seed: Annotated[
        int, typer.Option(help="Seed of the pairing, the training sample and the noise.")
    ] = 0,
    audio_snr_db: Annotated[
        float, typer.Option(help="Signal-to-noise ratio of the recordings in dB.")
    ] = -5.0,
    image_noise: Annotated[
        float, typer.Option(help="Pixel noise in standard deviations of MNIST.")
    ] = 2.5,
    train_size: Annotated[int, typer.Option(help="Training recordings.")] = 1000,
    modalities: DigitsOption = None,
    workers: FewWorkersOption = 1,
    max_bad: Annotated[int, typer.Option(min=0, help="Unreadable recordings to put up with.")] = 0,
) -> None:
    """Free Spoken Digit recordings paired with MNIST images."""
    from data_prep.sets import avmnist

    make = partial(
        avmnist.prepare,
        raw,
        out,
        seed=seed,
        audio_snr_db=audio_snr_db,
        image_noise=image_noise,
        train_size=train_size,
        modalities=_names(modalities),
    )
    _prepare(make, workers, max_bad)


@prep.command("crisismmd")
def prep_crisismmd(
    raw: RawOption,
    out: OutOption,
    task: Annotated[
        str, typer.Option(help="informative (2 classes) or humanitarian (5 classes).")
    ] = "informative",
    tokenizer: TokenizerOption = "google-bert/bert-base-uncased",
    keep_overlap: Annotated[
        bool,
        typer.Option(
            "--keep-overlap", help="Keep tweets of the dev and test splits in the earlier ones too."
        ),
    ] = False,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
    modalities: ModalityOption = None,
) -> None:
    """CrisisMMD: data_image/ and task_TASK_text_img_agreed_lab_{train,dev,test}.tsv, as
    downloaded.
    """
    from data_prep.sets import crisismmd

    make = partial(
        crisismmd.prepare,
        raw,
        out,
        task=task,
        tokenizer=tokenizer,
        keep_overlap=keep_overlap,
        modalities=_names(modalities),
    )
    _prepare(make, workers, max_bad)


@prep.command("manifest")
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

    _prepare(make, workers, max_bad)


@prep.command("npz")
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
    _prepare(make, 1, max_bad)  # rows are cut, not decoded: processes would take longer to start


def inspect(
    directory: Annotated[Path, typer.Argument(help="A prepared directory.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet to write; default: DIRECTORY.png.")
    ] = None,
) -> None:
    """Show what is in a prepared directory, and draw some samples of each class."""
    from data_prep.inspection.contact_sheet import write_contact_sheet

    try:
        _show_summary(directory)
        plain = directory.resolve()
        written = write_contact_sheet(directory, sheet or plain.with_name(f"{plain.name}.png"))
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print(f"contact sheet: {written}")


@prep.command("cremad")
def prep_cremad(
    raw: RawOption,
    out: OutOption,
    split: Annotated[
        str,
        typer.Option(
            help="actor (disjoint), random (stratified), or paper (train.csv and test.csv)."
        ),
    ] = "actor",
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--list",
            help="For paper, repeatable; default: train.csv and test.csv in the raw directory.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    frame_size: FrameSizeOption = 256,
    modalities: ModalityOption = None,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """CREMA-D: AudioWAV/<clip>.wav and VideoFlash/<clip>.flv, six emotions."""
    from data_prep.sets import cremad

    make = partial(
        cremad.prepare,
        raw,
        out,
        split=split,
        lists=lists or (),
        seed=seed,
        frame_size=frame_size,
        modalities=_names(modalities),
    )
    _prepare(make, workers, max_bad)


@prep.command("ave")
def prep_ave(
    raw: RawOption,
    out: OutOption,
    split: Annotated[
        str,
        typer.Option(
            help="clean: one label a segment, no video in two splits; paper: every line of the "
            "lists."
        ),
    ] = "clean",
    keep_overlap: Annotated[
        bool,
        typer.Option(
            "--keep-overlap", help="Keep training samples of videos that are in the test list too."
        ),
    ] = False,
    frame_size: FrameSizeOption = 256,
    modalities: ModalityOption = None,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """AVE: AVE/<VideoID>.mp4 with Annotations.txt, trainSet.txt, valSet.txt and testSet.txt, 28
    events.
    """
    from data_prep.sets import ave

    make = partial(
        ave.prepare,
        raw,
        out,
        split=split,
        keep_overlap=keep_overlap,
        frame_size=frame_size,
        modalities=_names(modalities),
    )
    _prepare(make, workers, max_bad)
