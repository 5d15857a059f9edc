"""``fedcmi ...``: thin commands; what they do are functions elsewhere, imported when a command runs."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

if TYPE_CHECKING:
    from data_prep.rows import Show
    from server_app.launch_record import Launch

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
prep = typer.Typer(no_args_is_help=True, help="Prepare a data set: raw files -> prepared directory.")
app.add_typer(prep, name="prep")
console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

RawOption = Annotated[Path, typer.Option(help="Directory of the raw archive, as it is unpacked.")]
OutOption = Annotated[Path, typer.Option(help="Directory to make; a second call goes on where the first stopped.")]
FrameSizeOption = Annotated[int, typer.Option(min=16, help="Pixels of the stored frames, which are squares.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes that decode; default: one per core.")]
MaxBadOption = Annotated[int, typer.Option(min=0, help="Samples with unusable files to put up with.")]
TokenizerOption = Annotated[str, typer.Option(help="BERT's: directory with vocab.txt, or name on the hub.")]
ModalityOption = Annotated[str | None, typer.Option("--modalities", help="Only these, joined by '+'.")]

SettingsArgument = Annotated[
    list[str], typer.Argument(help="Settings: names of files in server_app/recipes, or TOML files of your own.")
]
MethodsOption = Annotated[
    str, typer.Option(help="Rows, joined by commas: 'methods', 'ablations', their names, or TOML files of your own.")
]


class Engine(StrEnum):
    """Where the nodes run."""

    FLOWER = "flower"
    IN_PROCESS = "in-process"


def _fail(reason: object) -> typer.Exit:
    errors.print(f"[bold red]error:[/] {escape(str(reason))}")
    return typer.Exit(1)


def _end_with_what_was_started() -> None:
    """Turn a polite kill and a closed terminal into an exit, so that every `finally` stops what it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signal_number, frame: sys.exit(128 + signal_number))


def _prepare(make: "Callable[[Show], Path]") -> None:
    """Make a prepared directory under a progress bar; then say how fast it went and what is in it."""
    from data_prep.progress import prepare_visibly

    _end_with_what_was_started()
    try:
        _show_summary(prepare_visibly(console, make))
    except (OSError, ValueError) as error:
        raise _fail(error) from error


def _show_summary(directory: Path) -> None:
    from data_prep import summary

    console.print(summary.render(summary.summarise(directory)))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@prep.command("av-digits")
def prep_av_digits(
    out: Annotated[Path | None, typer.Option(help="Directory to make; default: the cache directory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0; another one needs --out.")] = None,
    audio_snr_db: Annotated[float | None, typer.Option(help="Default -15; another one needs --out.")] = None,
    image_noise: Annotated[float | None, typer.Option(help="Default 2.5; another one needs --out.")] = None,
    modalities: ModalityOption = None,
) -> None:
    """Handwritten digits (scikit-learn) with keypad tones: nothing to download."""
    from data_prep import av_digits
    from fedcmi_flwr.config import cache_directory

    levels = {"seed": seed, "audio_snr_db": audio_snr_db, "image_noise": image_noise}
    chosen: dict[str, Any] = {name: value for name, value in levels.items() if value is not None}
    if modalities:
        chosen["modalities"] = modalities.split("+")
    try:
        if chosen and out is None:
            raise ValueError(f"{', '.join(chosen)}: give --out too; the cache directory holds the default settings.")
        made = av_digits.prepare(out or cache_directory() / "av-digits", **chosen)
    except (OSError, ValueError) as error:
        raise _fail(error) from error
    console.print(f"prepared {made}")
    _show_summary(made)


@prep.command("avmnist")
def prep_avmnist(
    raw: Annotated[Path, typer.Option(help="Directory with recordings/ and t10k-*-ubyte.gz.")],
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    seed: Annotated[int, typer.Option(help="Seed of the pairing, the training sample and the noise.")] = 0,
    audio_snr_db: Annotated[float, typer.Option(help="Signal-to-noise ratio of the recordings in dB.")] = -5.0,
    image_noise: Annotated[float, typer.Option(help="Pixel noise in standard deviations of MNIST.")] = 2.5,
    train_size: Annotated[int, typer.Option(help="Training recordings.")] = 1000,
    max_bad: Annotated[int, typer.Option(help="Unreadable recordings to put up with.")] = 0,
    modalities: ModalityOption = None,
) -> None:
    """Free Spoken Digit recordings paired with MNIST images."""
    from data_prep import avmnist

    try:
        made = avmnist.prepare(
            raw,
            out,
            seed=seed,
            audio_snr_db=audio_snr_db,
            image_noise=image_noise,
            train_size=train_size,
            max_bad=max_bad,
            modalities=modalities.split("+") if modalities else None,
        )
    except (OSError, ValueError) as error:
        raise _fail(error) from error
    console.print(f"prepared {made}")
    _show_summary(made)


@prep.command("crisismmd")
def prep_crisismmd(
    raw: RawOption,
    out: OutOption,
    tokenizer: TokenizerOption = "google-bert/bert-base-uncased",
    keep_overlap: Annotated[
        bool, typer.Option("--keep-overlap", help="Keep tweets of the dev and test splits in the earlier ones too.")
    ] = False,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
    modalities: ModalityOption = None,
) -> None:
    """CrisisMMD: data_image/ and task_informative_text_img_{train,dev,test}.tsv with agreed labels, two classes."""
    from data_prep import crisismmd

    _prepare(
        lambda show: crisismmd.prepare(
            raw,
            out,
            tokenizer=tokenizer,
            keep_overlap=keep_overlap,
            modalities=modalities.split("+") if modalities else None,
            workers=workers or _cores(),
            max_bad=max_bad,
            show=show,
        )
    )


@prep.command("manifest")
def prep_manifest(
    manifest: Annotated[Path, typer.Option(help="CSV or Parquet: id, label, split, group, a column a modality.")],
    raw: Annotated[Path, typer.Option(help="Directory that the paths are relative to.")],
    out: OutOption,
    modality: Annotated[
        list[str], typer.Option(help="NAME=KIND, two or more times: audio, image, video, text or series.")
    ],
    classes: Annotated[str | None, typer.Option(help="Labels in index order, joined by ','; default: sorted.")] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of images and of a video's frames.")] = 224,
    seconds: Annotated[float, typer.Option(help="Of sound; shorter ones are repeated, longer ones cut.")] = 3.0,
    frames: Annotated[int, typer.Option(help="Of a video, at the centres of equal parts.")] = 3,
    tokens: Annotated[int, typer.Option(help="Of a text at most.")] = 40,
    tokenizer: TokenizerOption = "google-bert/bert-base-uncased",
    points: Annotated[int, typer.Option(help="Of a series, resampled from the whole of it.")] = 128,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """Prepare your own data: any two or more modalities; a text's cells hold the text, the others' paths."""
    from data_prep import manifest as own_data

    def make(show: "Show") -> Path:
        return own_data.prepare(
            manifest,
            raw,
            out,
            own_data.parse_modalities(modality),
            sizes=own_data.Sizes(image_size, seconds, frames, tokens, tokenizer, points),
            classes=classes.split(",") if classes is not None else None,
            workers=workers or _cores(),
            max_bad=max_bad,
            show=show,
        )

    _prepare(make)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="A prepared directory.")],
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet to write; default: DIRECTORY.png.")] = None,
) -> None:
    """Show what is in a prepared directory, and draw some samples of each class."""
    from data_prep.contact_sheet import write_contact_sheet

    try:
        _show_summary(directory)
        plain = directory.resolve()
        written = write_contact_sheet(directory, sheet or plain.with_name(f"{plain.name}.png"))
    except (OSError, ValueError) as error:
        raise _fail(error) from error
    console.print(f"contact sheet: {written}")


@prep.command("cremad")
def prep_cremad(
    raw: RawOption,
    out: OutOption,
    split: Annotated[
        str, typer.Option(help="actor (disjoint), random (stratified), or paper (needs --list).")
    ] = "actor",
    list_: Annotated[Path | None, typer.Option("--list", help="For paper: lines <clip>,train or <clip>,test.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    frame_size: FrameSizeOption = 256,
    modalities: ModalityOption = None,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """CREMA-D: AudioWAV/<clip>.wav and VideoFlash/<clip>.flv, six emotions."""
    from data_prep import cremad

    _prepare(
        lambda show: cremad.prepare(
            raw,
            out,
            split=split,
            list_file=list_,
            seed=seed,
            frame_size=frame_size,
            modalities=modalities.split("+") if modalities else None,
            workers=workers or _cores(),
            max_bad=max_bad,
            show=show,
        )
    )


@prep.command("ave")
def prep_ave(
    raw: RawOption,
    out: OutOption,
    keep_overlap: Annotated[
        bool, typer.Option("--keep-overlap", help="Keep training samples of videos that are in the test list too.")
    ] = False,
    frame_size: FrameSizeOption = 256,
    modalities: ModalityOption = None,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = 0,
) -> None:
    """AVE: AVE/<VideoID>.mp4 with Annotations.txt, trainSet.txt, valSet.txt and testSet.txt, 28 events."""
    from data_prep import ave

    _prepare(
        lambda show: ave.prepare(
            raw,
            out,
            keep_overlap=keep_overlap,
            frame_size=frame_size,
            modalities=modalities.split("+") if modalities else None,
            workers=workers or _cores(),
            max_bad=max_bad,
            show=show,
        )
    )


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Option(help="TOML file that overrides run-config keys.")] = None,
    method: Annotated[
        str | None, typer.Option(help="fedavg, scaffold, late-fusion, fedcmi, ...; a wrong one lists them all.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Built-in data set or prepared directory.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    num_nodes: Annotated[int | None, typer.Option(min=1, help="Simulated nodes; default 10.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write; default: a new directory in runs/.")] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Ray processes, which is the default, or all in one process.")
    ] = None,
    clients_at_once: Annotated[int | None, typer.Option(min=1, help="Clients that share a GPU at a time.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the run-config; repeatable.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the unfinished run in this directory, as it was started.")
    ] = None,
) -> None:
    """Train a federation and print one line a round; exit status 0 only if it completed."""
    from server_app import launch_record
    from server_app.resume import RunFinishedError

    _end_with_what_was_started()
    options = {"method": method, "data": data, "num-server-rounds": rounds, "seed": seed}
    try:
        if resume is not None and run_dir is not None:
            raise ValueError("--resume goes on in its own directory; leave --run-dir out.")
        if resume is None:
            chosen = launch_record.begin(recipe, options, set_ or [], run_dir, num_nodes, engine)
        else:
            chosen = launch_record.go_on(resume, recipe, options, set_ or [], num_nodes, engine)
        _run(chosen, clients_at_once)
    except RunFinishedError as finished:
        console.print(escape(str(finished)))
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
        raise _fail(error) from error


def _run(chosen: "Launch", clients_at_once: int | None) -> None:
    """Run a simulation; then show its summary."""
    from server_app import launch

    console.print(f"run directory: {chosen.run_dir}")
    if chosen.engine == Engine.FLOWER:
        launch.run_with_flower(chosen.raw, chosen.num_nodes, console.print, clients_at_once)
    else:
        from client_app.app import app as client_app

        logging.getLogger("flwr").setLevel(logging.ERROR)
        launch.run_in_process(chosen.raw, chosen.num_nodes, client_app, console.print)
    console.print(Markdown((chosen.run_dir / "summary.md").read_text(encoding="utf-8")))
    console.print(f"run directory: {chosen.run_dir}")


@app.command()
def bench(
    settings: SettingsArgument,
    out: Annotated[Path, typer.Option(help="Where runs and tables go; a second call goes on where it stopped.")],
    methods: MethodsOption = "methods",
    tuned: Annotated[Path | None, typer.Option(help="tuned.toml of `fedcmi tune`.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Row to compare with; default: fedavg, or the first.")] = None,
    target: Annotated[
        float | None, typer.Option(min=0, max=100, help="Accuracy in % to reach; default: the baseline's.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Built-in data set or prepared directory.")] = None,
    num_nodes: Annotated[int, typer.Option(min=1, help="Simulated nodes.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; on Ray one.")] = 1,
    engine: Annotated[Engine, typer.Option(help="Ray, or each run in one process: the same numbers.")] = (
        Engine.IN_PROCESS
    ),
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for all runs; repeatable.")] = None,
) -> None:
    """Run rows x settings x seeds, and write results.csv, table.md and plots."""
    from server_app import bench_configs, bench_table, experiments, processes

    _end_with_what_was_started()
    on_flower = engine is Engine.FLOWER
    try:
        rows = bench_configs.find_rows(methods.split(","))
        chosen = bench_configs.choose_baseline(baseline, rows)
        values = bench_configs.read_tuned(tuned) if tuned else {}
        untuned = [row.stem for row in rows if tuned and row.stem not in values]
        if untuned:
            console.print(f"not in {tuned}, so with their own values: {', '.join(untuned)}")
        found = bench_configs.find_settings(settings)
        options = {"data": data, "checkpoint-every": 0}  # an unfinished run of a bench is made anew
        configs = bench_configs.bench_configs(found, rows, values, options, set_ or [])
        with processes.alone_in(out):
            experiments.claim(out, num_nodes, configs)
            planned = experiments.plan(configs, seeds, num_nodes, out)
            failed = experiments.run_all(planned, 1 if on_flower else jobs, on_flower, console.print)
            console.print(Markdown(bench_table.write_results(planned, chosen, target, out)))
    except (OSError, ValueError) as error:
        raise _fail(error) from error
    console.print(f"results: {out / 'results.csv'}, {out / 'table.md'}, {out / 'accuracy-*.png'}")
    if failed:
        raise _fail("failed: " + ", ".join(str(experiment.run_dir) for experiment in failed))


@app.command()
def tune(
    settings: SettingsArgument,
    out: Annotated[Path, typer.Option(help="Where runs and results go; a second call goes on where it stopped.")],
    methods: MethodsOption = "methods",
    data: Annotated[str | None, typer.Option(help="Built-in data set or prepared directory.")] = None,
    num_nodes: Annotated[int, typer.Option(min=1, help="Simulated nodes.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for all runs; repeatable.")] = None,
) -> None:
    """Choose learning rate and own weight of each row on a part of the training split; write tuned.toml."""
    from server_app import bench_configs, processes, tuning

    _end_with_what_was_started()
    options = {"data": data, "validation-share": tuning.VALIDATION_SHARE, "checkpoint-every": 0}
    try:
        found, rows = bench_configs.find_settings(settings), bench_configs.find_rows(methods.split(","))
        configs = bench_configs.bench_configs(found, rows, {}, options, set_ or [])
        with processes.alone_in(out):
            tuning.Tuning(configs, seeds, num_nodes, jobs, out, console.print).run()
    except (OSError, ValueError) as error:
        raise _fail(error) from error
    console.print((out / "tuned.toml").read_text(encoding="utf-8"), markup=False)
    console.print(f"results: {out / 'tuned.toml'}, {out / 'tune.csv'}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run, or --out of a bench.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the directory.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Write TensorBoard scalars into this directory too.")] = None,
) -> None:
    """Put a run or a bench on one HTML page that opens without network."""
    from server_app import html_report, tensorboard_export

    try:
        console.print(f"report: {html_report.write_report(directory, out)}")
        if tensorboard is not None:
            tensorboard_export.export_scalars(directory, tensorboard)
            console.print(f"scalars: tensorboard --logdir {tensorboard}")
    except (OSError, ValueError) as error:
        raise _fail(error) from error


if __name__ == "__main__":
    app()
