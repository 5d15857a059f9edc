"""How commands speak to their user, and how they end."""

import signal
import sys
from typing import Any

import click
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from fedcmi_flwr.machine.extras import MissingExtraError

EXTRAS = {
    "prep": "prep",
    "inspect": "prep",
    "predict": "prep",
    "export": "export",
    "deploy": "deploy",
    "report": "report",
}
"""Command -> the extra that it needs; all others need ``simulation``."""

console = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)
"""What they print is printed as it is: a name may look like markup."""


def fail(reason: object) -> typer.Exit:
    """Print why a command failed, and return what is to be raised: exit status 1."""
    errors.print(Text.assemble(("error:", "bold red"), f" {reason}"))
    return typer.Exit(1)


class Commands(TyperGroup):
    """The commands; where a package is missing, they end with the command that installs it."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 (as click has it)
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MissingExtraError as error:
            raise fail(error) from error
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(ctx.invoked_subcommand or "", "simulation")
            raise fail(MissingExtraError(error.name, extra)) from error


def end_with_what_was_started() -> None:
    """Turn a polite kill and a closed terminal into an exit, so that every `finally` stops what it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signal_number, frame: sys.exit(128 + signal_number))
