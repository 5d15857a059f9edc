"""``fedcmi prep`` of the published data sets, and ``fedcmi inspect``."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from server_app.commands.preparing import (
    MaxBadOption,
    OutOption,
    WorkersOption,
    prepare_and_show,
    show_summary,
)
from server_app.commands.terminal import console, fail

prep = typer.Typer(
    no_args_is_help=True, help="Prepare a data set: raw files -> prepared directory."
)

RawOption = Annotated[Path, typer.Option(help="Directory of the raw archive, as it is unpacked.")]
FrameSizeOption = Annotated[
    int, typer.Option(min=16, help="Pixels of the stored frames, which are squares.")
]
FewWorkersOption = Annotated[
    int, typer.Option(min=1, help="Processes that decode; starting them takes seconds.")
]
TokenizerOption = Annotated[
    str,
    typer.Option(help="BERT's: directory with vocab.txt, or name on the hub; or hashed:BUCKETS."),
]
ModalityOption = Annotated[
    str | None, typer.Option("--modalities", help="Only these, joined by '+'.")
]
DigitsOption = Annotated[
    str | None,
    typer.Option(
        "--modalities", help="Of audio, visual and contour, joined by '+'. Default: audio+visual."
    ),
]


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

    prepare_and_show(
        partial(av_digits.prepare, out or cache_directory() / "av-digits", **chosen), workers
    )


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
    prepare_and_show(make, workers, max_bad)


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
    prepare_and_show(make, workers, max_bad)


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
    prepare_and_show(make, workers, max_bad)


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
    prepare_and_show(make, workers, max_bad)


def _names(modalities: str | None) -> list[str] | None:
    return modalities.split("+") if modalities else None


def inspect(
    directory: Annotated[Path, typer.Argument(help="A prepared directory.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet to write; default: DIRECTORY.png.")
    ] = None,
) -> None:
    """Show what is in a prepared directory, and draw some samples of each class."""
    from data_prep.inspection.contact_sheet import write_contact_sheet

    try:
        show_summary(directory)
        plain = directory.resolve()
        written = write_contact_sheet(directory, sheet or plain.with_name(f"{plain.name}.png"))
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print(f"contact sheet: {written}")
