"""``fedcmi prep describe`` and ``fedcmi prep sums``: what servers and devices agree on at first."""

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
        typer.Option(
            help="What `fedcmi prep sums` wrote; repeatable. Numbers are standardised by all."
        ),
    ] = None,
) -> None:
    """Write what devices must agree on with their server.

    Classes, modalities, sizes and recipes.
    """
    from data_prep.sets.federation import describe

    try:
        found = describe(directory, out, sums or ())
    except (OSError, ValueError) as error:
        raise fail(error) from error

    kinds = ", ".join(f"{name} ({kind})" for name, kind in found.kinds.items())
    console.print(f"{out}: {len(found.classes)} classes, {kinds}")


@prep_federation.command("sums")
def prep_sums(
    directory: Annotated[
        Path, typer.Argument(help="A device's prepared directory, made by --federation.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write, for the server's `prep describe --sums`.")
    ],
) -> None:
    """Write a device's part of the federation's mean and deviation: sums over its train split."""
    from data_prep.sets.sums import FEWEST, write_sums

    try:
        found = write_sums(directory, out)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    for name, each in found.items():
        console.print(f"{out}: {name}, sums of {min(each.count)} to {max(each.count)} values")
        left_out = each.count.count(0)
        if left_out:
            console.print(
                f"{name}: {left_out} features with fewer than {FEWEST} values are left out"
            )
