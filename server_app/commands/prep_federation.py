"""``fedcmi prep describe`` and ``fedcmi prep sums``: what a server and its devices tell each other before training."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.commands.terminal import console, fail

prep_federation = typer.Typer()


@prep_federation.command("describe")
def prep_describe(
    directory: Annotated[Path, typer.Argument(help="The server's prepared directory.")],
    out: Annotated[Path, typer.Option(help="File to write, for the devices' --federation.")],
    sums: Annotated[
        list[Path] | None,
        typer.Option(help="What a device's `fedcmi prep sums` wrote; repeatable. Numbers are standardised by all."),
    ] = None,
) -> None:
    """Write what devices must agree on with their server: classes, modalities, sizes, and how they are made."""
    from data_prep.sets.federation import describe

    try:
        found = describe(directory, out, sums or ())
    except (OSError, ValueError) as error:
        raise fail(error) from error
    kinds = ", ".join(f"{name} ({kind})" for name, kind in found.kinds.items())
    console.print(f"{out}: {len(found.classes)} classes, {kinds}")


@prep_federation.command("sums")
def prep_sums(
    directory: Annotated[Path, typer.Argument(help="A device's prepared directory, made by --federation.")],
    out: Annotated[Path, typer.Option(help="File to write, for the server's `fedcmi prep describe --sums`.")],
) -> None:
    """Write what a device adds to the federation's mean and deviation: sums over its train split, by feature."""
    from data_prep.sets.sums import FEWEST, write_sums

    try:
        found = write_sums(directory, out)
    except (OSError, ValueError) as error:
        raise fail(error) from error
    for name, each in found.items():
        console.print(f"{out}: {name}, sums of {min(each.count)} to {max(each.count)} values")
        left_out = each.count.count(0)
        if left_out:
            console.print(f"{name}: {left_out} features with fewer than {FEWEST} values are left out")
