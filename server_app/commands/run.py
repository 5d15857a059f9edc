"""``fedcmi run``: one federation, simulated on this machine."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server_app.commands.engine import Engine
from server_app.commands.terminal import console, end_with_what_was_started, fail_run, live_line

if TYPE_CHECKING:
    from server_app.launch.record import Launch


def run(
    recipe: Annotated[
        str | None,
        typer.Option(help="TOML file that overrides run-config keys, or a name such as cremad."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="fedavg, scaffold, late-fusion, fedcmi, ...; a wrong one lists them all."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Built-in data set or prepared directory.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    num_nodes: Annotated[
        int | None, typer.Option(min=1, help="Simulated nodes; default 10.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to write; default: a new directory in runs/.")
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="Ray processes, which is the default, or all in one process."),
    ] = None,
    clients_at_once: Annotated[
        int | None, typer.Option(min=1, help="Clients that share a GPU at a time.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the run-config; repeatable.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Begin with the weights of this model file, or of a run's model."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the unfinished run in this directory, or with --rounds train a "
            "finished one on."
        ),
    ] = None,
) -> None:
    """Train a federation and print one line a round; exit status 0 only if it completed."""
    options = {"method": method, "data": data, "num-server-rounds": rounds, "seed": seed}
    options |= {"start-from": None if from_ is None else str(from_)}
    known: list[Path] = [] if resume is None else [resume]

    end_with_what_was_started(lambda: _advice(known[0]) if known else "nothing was trained yet.")

    from server_app.launch.recipes import find_recipe
    from server_app.launch.record import begin, go_on
    from server_app.run.resume import RunFinishedError

    try:
        if resume is not None and run_dir is not None:
            raise ValueError("--resume goes on in its own directory; leave --run-dir out.")

        overrides = None if recipe is None else find_recipe(recipe)
        if resume is None:
            starting = begin(overrides, options, set_ or [], run_dir, num_nodes, engine)
        else:
            starting = go_on(resume, overrides, options, set_ or [], num_nodes, engine)

        with starting as chosen:
            known[:] = [chosen.run_dir]
            _simulate(chosen, clients_at_once)
    except RunFinishedError as finished:
        console.print(str(finished))
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
        from server_app.run.directory import LAUNCH

        has_begun = bool(known) and (known[0] / LAUNCH).is_file()
        raise fail_run(error, _advice(known[0]) if has_begun else "") from error


def _advice(run_dir: Path) -> str:
    from server_app.run.resume import how_to_go_on

    return how_to_go_on(run_dir, f"fedcmi run --resume {shlex.quote(str(run_dir))}")


def _simulate(chosen: "Launch", clients_at_once: int | None) -> None:
    """Run a simulation; then show its summary."""
    from server_app.commands.markdown import TerminalMarkdown
    from server_app.launch.start import load_client_app, run_in_process, run_with_flower

    console.print(f"run directory: {chosen.run_dir}")
    with live_line() as show:
        if chosen.engine == Engine.FLOWER:
            run_with_flower(chosen.raw, chosen.num_nodes, show, clients_at_once)
        else:
            logging.getLogger("flwr").setLevel(logging.ERROR)
            run_in_process(chosen.raw, chosen.num_nodes, load_client_app(), show)

    console.print(TerminalMarkdown((chosen.run_dir / "summary.md").read_text(encoding="utf-8")))
    console.print(f"run directory: {chosen.run_dir}")
