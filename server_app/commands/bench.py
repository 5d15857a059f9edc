"""``fedcmi bench`` and ``fedcmi tune``: many runs, compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server_app.commands.engine import Engine
from server_app.commands.terminal import AGAIN, console, end_with_what_was_started, fail

if TYPE_CHECKING:
    from server_app.bench.suite import Chosen

SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings: names of files in server_app/recipes, or TOML files of your own; of a "
        "suite, names such as mfeat-half or '*-half', all without any."
    ),
]
SuiteOption = Annotated[
    str | None, typer.Option(help="Several sets at once: paired, or a TOML file of your own.")
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        help="Of a suite: directory with a prepared directory or an NPZ file for each set."
    ),
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        help="Rows, joined by commas: 'methods', 'ablations', their names, or TOML files of your "
        "own; default: methods, or the suite's."
    ),
]
DataOption = Annotated[str | None, typer.Option(help="Built-in data set or prepared directory.")]
NodesOption = Annotated[
    int | None, typer.Option(min=1, help="Simulated nodes; default: 10, or the suite's.")
]


def _chosen(
    suite: str | None,
    settings: list[str] | None,
    methods: str | None,
    baseline: str | None,
    num_nodes: int | None,
    data: str | None,
    data_root: Path | None,
) -> "Chosen":
    """Return what is to be run: settings by themselves, or a suite's."""
    from server_app.bench.suite import choose_settings, choose_suite, read_suite

    if (data if suite else data_root) is not None:
        raise ValueError(
            "--data is for settings and --data-root for a --suite; give the one that fits."
        )

    asked = (settings or [], methods, baseline, num_nodes)

    return (
        choose_suite(read_suite(suite), *asked, data_root, console.print)
        if suite
        else choose_settings(*asked)
    )


def bench(
    out: Annotated[
        Path, typer.Option(help="Where runs and tables go; a second call goes on where it stopped.")
    ],
    settings: SettingsArgument = None,
    suite: SuiteOption = None,
    data_root: DataRootOption = None,
    methods: MethodsOption = None,
    tuned: Annotated[Path | None, typer.Option(help="tuned.toml of `fedcmi tune`.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Row to compare with; default: fedavg, or the first.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Accuracy in % to reach; default: the baseline's."),
    ] = None,
    data: DataOption = None,
    num_nodes: NodesOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; on Ray one.")] = 1,
    engine: Annotated[
        Engine, typer.Option(help="Ray, or each run in one process: the same numbers.")
    ] = (Engine.IN_PROCESS),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all runs; repeatable.")
    ] = None,
) -> None:
    """Run rows x settings x seeds, and write results.csv, table.md and plots.

    Of a suite, suite.md over its sets.
    """
    end_with_what_was_started(lambda: AGAIN)

    from server_app.bench.configs import bench_configs, check_data, read_tuned
    from server_app.bench.experiments import plan, reserve, run_all
    from server_app.bench.jobs import alone_in
    from server_app.bench.suite_table import write_suite
    from server_app.bench.table import write_results
    from server_app.commands.markdown import TerminalMarkdown

    on_flower = engine is Engine.FLOWER
    try:
        chosen = _chosen(suite, settings, methods, baseline, num_nodes, data, data_root)
        values = read_tuned(tuned) if tuned else {}
        untuned = [row.stem for row in chosen.rows if tuned and row.stem not in values]
        if untuned:
            console.print(f"not in {tuned}, so with their own values: {', '.join(untuned)}")

        options = {"data": data, "checkpoint-every": 0}  # an unfinished run of a bench is made anew
        configs = bench_configs(chosen.values, chosen.rows, values, options, set_ or [])
        check_data(configs)

        with alone_in(out):
            reserve(out, chosen.num_nodes, configs)
            planned = plan(configs, seeds, chosen.num_nodes, out)
            failed = run_all(planned, 1 if on_flower else jobs, on_flower, console.print)
            text = write_results(planned, chosen.baseline, target, out)
            if suite:
                text = write_suite(planned, chosen.sets, out)

            console.print(TerminalMarkdown(text))
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print(f"results: {out / 'results.csv'}, {out / 'table.md'}, {out / 'accuracy-*.png'}")
    if failed:
        raise fail("failed: " + ", ".join(str(experiment.run_dir) for experiment in failed))


def tune(
    out: Annotated[
        Path,
        typer.Option(help="Where runs and results go; a second call goes on where it stopped."),
    ],
    settings: SettingsArgument = None,
    suite: SuiteOption = None,
    data_root: DataRootOption = None,
    methods: MethodsOption = None,
    data: DataOption = None,
    num_nodes: NodesOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all runs; repeatable.")
    ] = None,
) -> None:
    """Choose learning rate and own weight of each row on a part of the training split.

    Write tuned.toml.
    """
    end_with_what_was_started(lambda: AGAIN)

    from server_app.bench.configs import bench_configs, check_data
    from server_app.bench.jobs import alone_in
    from server_app.bench.tuning import VALIDATION_SHARE, Tuning

    options = {"data": data, "validation-share": VALIDATION_SHARE, "checkpoint-every": 0}
    try:
        chosen = _chosen(suite, settings, methods, None, num_nodes, data, data_root)
        configs = bench_configs(chosen.values, chosen.rows, {}, options, set_ or [])
        check_data(configs)

        with alone_in(out):
            Tuning(configs, seeds, chosen.num_nodes, jobs, out, console.print).run()
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print((out / "tuned.toml").read_text(encoding="utf-8"))
    console.print(f"results: {out / 'tuned.toml'}, {out / 'tune.csv'}")
