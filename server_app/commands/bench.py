"""``fedcmi bench`` and ``fedcmi tune``: many runs, compared."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.commands.engine import Engine
from server_app.commands.terminal import console, end_with_what_was_started, fail

SettingsArgument = Annotated[
    list[str], typer.Argument(help="Settings: names of files in server_app/recipes, or TOML files of your own.")
]
MethodsOption = Annotated[
    str, typer.Option(help="Rows, joined by commas: 'methods', 'ablations', their names, or TOML files of your own.")
]


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

    from server_app.bench.configs import (
        bench_configs,
        check_data,
        choose_baseline,
        find_rows,
        find_settings,
        read_tuned,
    )
    from server_app.bench.experiments import plan, reserve, run_all
    from server_app.bench.jobs import alone_in
    from server_app.bench.table import write_results

    end_with_what_was_started()
    on_flower = engine is Engine.FLOWER
    try:
        rows = find_rows(methods.split(","))
        chosen = choose_baseline(baseline, rows)
        values = read_tuned(tuned) if tuned else {}
        untuned = [row.stem for row in rows if tuned and row.stem not in values]
        if untuned:
            console.print(f"not in {tuned}, so with their own values: {', '.join(untuned)}")
        found = find_settings(settings)
        options = {"data": data, "checkpoint-every": 0}  # an unfinished run of a bench is made anew
        configs = bench_configs(found, rows, values, options, set_ or [])
        check_data(configs)
        with alone_in(out):
            reserve(out, num_nodes, configs)
            planned = plan(configs, seeds, num_nodes, out)
            failed = run_all(planned, 1 if on_flower else jobs, on_flower, console.print)
            console.print(Markdown(write_results(planned, chosen, target, out)))
    except (OSError, ValueError) as error:
        raise fail(error) from error
    console.print(f"results: {out / 'results.csv'}, {out / 'table.md'}, {out / 'accuracy-*.png'}", markup=False)
    if failed:
        raise fail("failed: " + ", ".join(str(experiment.run_dir) for experiment in failed))


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
    from server_app.bench.configs import bench_configs, check_data, find_rows, find_settings
    from server_app.bench.jobs import alone_in
    from server_app.bench.tuning import VALIDATION_SHARE, Tuning

    end_with_what_was_started()
    options = {"data": data, "validation-share": VALIDATION_SHARE, "checkpoint-every": 0}
    try:
        found, rows = find_settings(settings), find_rows(methods.split(","))
        configs = bench_configs(found, rows, {}, options, set_ or [])
        check_data(configs)
        with alone_in(out):
            Tuning(configs, seeds, num_nodes, jobs, out, console.print).run()
    except (OSError, ValueError) as error:
        raise fail(error) from error
    console.print((out / "tuned.toml").read_text(encoding="utf-8"), markup=False)
    console.print(f"results: {out / 'tuned.toml'}, {out / 'tune.csv'}")
