"""``fedcmi ...``: thin commands; what they do are functions elsewhere, imported when a command runs."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from server_app.commands.deploy import deploy
from server_app.commands.keys import keys
from server_app.commands.predict import export, predict
from server_app.commands.prep import inspect, prep
from server_app.commands.terminal import console, end_with_what_was_started, fail

if TYPE_CHECKING:
    from server_app.launch.record import Launch

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(prep, name="prep")
app.add_typer(deploy, name="deploy")
app.command()(inspect)
app.command()(predict)
app.command()(export)
app.command()(keys)

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
    from server_app.launch import record as launch_record
    from server_app.run.resume import RunFinishedError

    end_with_what_was_started()
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
        raise fail(error) from error


def _run(chosen: "Launch", clients_at_once: int | None) -> None:
    """Run a simulation; then show its summary."""
    from rich.markdown import Markdown

    from server_app.launch import start as launch

    console.print(f"run directory: {chosen.run_dir}", markup=False)
    if chosen.engine == Engine.FLOWER:
        launch.run_with_flower(chosen.raw, chosen.num_nodes, console.print, clients_at_once)
    else:
        from client_app.app import app as client_app

        logging.getLogger("flwr").setLevel(logging.ERROR)
        launch.run_in_process(chosen.raw, chosen.num_nodes, client_app, console.print)
    console.print(Markdown((chosen.run_dir / "summary.md").read_text(encoding="utf-8")))
    console.print(f"run directory: {chosen.run_dir}", markup=False)


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
    from rich.markdown import Markdown

    from server_app.bench import configs as bench_configs
    from server_app.bench import experiments
    from server_app.bench import jobs as processes
    from server_app.bench import table as bench_table

    end_with_what_was_started()
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
        raise fail(error) from error
    console.print(f"results: {out / 'results.csv'}, {out / 'table.md'}, {out / 'accuracy-*.png'}", markup=False)
    if failed:
        raise fail("failed: " + ", ".join(str(experiment.run_dir) for experiment in failed))


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
    from server_app.bench import configs as bench_configs
    from server_app.bench import jobs as processes
    from server_app.bench import tuning

    end_with_what_was_started()
    options = {"data": data, "validation-share": tuning.VALIDATION_SHARE, "checkpoint-every": 0}
    try:
        found, rows = bench_configs.find_settings(settings), bench_configs.find_rows(methods.split(","))
        configs = bench_configs.bench_configs(found, rows, {}, options, set_ or [])
        with processes.alone_in(out):
            tuning.Tuning(configs, seeds, num_nodes, jobs, out, console.print).run()
    except (OSError, ValueError) as error:
        raise fail(error) from error
    console.print((out / "tuned.toml").read_text(encoding="utf-8"), markup=False)
    console.print(f"results: {out / 'tuned.toml'}, {out / 'tune.csv'}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run, or --out of a bench.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the directory.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Write TensorBoard scalars into this directory too.")] = None,
) -> None:
    """Put a run or a bench on one HTML page that opens without network."""
    from server_app.pages import report as html_report
    from server_app.pages import tensorboard as tensorboard_export

    try:
        console.print(f"report: {html_report.write_report(directory, out)}")
        if tensorboard is not None:
            tensorboard_export.export_scalars(directory, tensorboard)
            console.print(f"scalars: tensorboard --logdir {tensorboard}")
    except (OSError, ValueError) as error:
        raise fail(error) from error


if __name__ == "__main__":
    app()
