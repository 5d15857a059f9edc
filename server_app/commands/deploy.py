"""``fedcmi deploy ...``: training on real devices, and its rehearsal."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from server_app.commands.deploy_status import status_notes, status_table
from server_app.commands.terminal import console, end_with_what_was_started, errors, fail, fail_run

deploy = typer.Typer(
    no_args_is_help=True, help="Train on real devices; rehearse that on this machine."
)

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The deployment's directory.")
]


@deploy.command()
def init(
    directory: DirectoryArgument,
    nodes: Annotated[Path, typer.Option(help="TOML: [superlink] and a [[node]] for each device.")],
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Without TLS and node authentication; in a closed network only."
        ),
    ] = False,
) -> None:
    """Write certificates, keys, services and a README with every command."""
    from server_app.deploy.kit import write_kit
    from server_app.deploy.nodes_toml import read_nodes_toml

    try:
        read = read_nodes_toml(nodes, secure=not insecure)
        write_kit(directory, read)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    if insecure:
        more = " no encryption, and whoever reaches the port can join (--insecure)."
        errors.print(Text.assemble(("warning:", "bold yellow"), more))

    console.print(
        f"{len(read.nodes)} nodes for {read.address}; what to do: {directory / 'README.md'}"
    )


@deploy.command()
def up(
    directory: DirectoryArgument,
    only: Annotated[
        list[str] | None, typer.Option(help="Start this process only; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this process out; repeatable.")
    ] = None,
) -> None:
    """Start the SuperLink and all nodes on this machine, over loopback."""
    end_with_what_was_started(lambda: "what `deploy up` had started is stopped again.")

    from server_app.deploy.rehearsal import Rehearsal

    try:
        Rehearsal(directory).up(only or [], without or [], partial(console.print))
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error


@deploy.command()
def status(
    directory: DirectoryArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects, for programs.")
    ] = False,
) -> None:
    """Show how the server and each device are, and which certificates end soon."""
    from server_app.deploy.overview import overview

    try:
        found, problems = overview(directory)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    if as_json:
        typer.echo(json.dumps([asdict(process) for process in found], indent=1))
    else:
        console.print(status_table(found))
        for line in status_notes(found):
            console.print(line)

    for problem in problems:
        errors.print(Text.assemble(("warning:", "bold yellow"), f" {problem}"))


@deploy.command()
def run(
    directory: DirectoryArgument,
    recipe: Annotated[
        str | None,
        typer.Option(help="TOML file that overrides run-config keys, or a name such as cremad."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the run-config; repeatable.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to write; default: a new directory in runs/.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --run-dir.")
    ] = False,
) -> None:
    """Train on the rehearsal's nodes where it is up, else on the real ones.

    Exit status 0 only if it completed.
    """
    known: list[Path] = [run_dir] if resume and run_dir is not None else []
    end_with_what_was_started(lambda: _advice(directory, known))

    from server_app.commands.markdown import TerminalMarkdown
    from server_app.deploy.training import train
    from server_app.launch.recipes import find_recipe
    from server_app.run.resume import RunFinishedError

    try:
        overrides = None if recipe is None else find_recipe(recipe)
        chosen = train(
            directory, overrides, set_ or [], run_dir, resume, partial(console.print), known.append
        )
    except RunFinishedError as finished:
        console.print(str(finished))
        return
    except (OSError, ValueError, RuntimeError) as error:
        # A directory that --resume named need not hold a run
        has_begun = bool(known) and (not resume or (known[-1] / "metrics.jsonl").is_file())
        raise fail_run(error, _advice(directory, known) if has_begun else "") from error

    console.print(TerminalMarkdown((chosen / "summary.md").read_text(encoding="utf-8")))
    console.print(f"run directory: {chosen}")


def _advice(directory: Path, run_dirs: list[Path]) -> str:
    """Return how to go on with the last of these run directories."""
    from server_app.deploy.training import resume_command
    from server_app.run.resume import how_to_go_on

    if not run_dirs:
        return "nothing was trained yet."

    return how_to_go_on(run_dirs[-1], resume_command(directory, run_dirs[-1]))


@deploy.command()
def down(directory: DirectoryArgument) -> None:
    """Stop a rehearsal: nothing of it is left running."""
    from server_app.deploy.rehearsal import Rehearsal

    try:
        Rehearsal(directory).down()
    except (OSError, ValueError) as error:
        raise fail(error) from error
