"""How commands speak to their user, and how they end."""

import signal
import sys

import typer
from rich.console import Console
from rich.markup import escape

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def fail(reason: object) -> typer.Exit:
    """Print why a command failed, and return what is to be raised: exit status 1."""
    errors.print(f"[bold red]error:[/] {escape(str(reason))}")
    return typer.Exit(1)


def end_with_what_was_started() -> None:
    """Turn a polite kill and a closed terminal into an exit, so that every `finally` stops what it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signal_number, frame: sys.exit(128 + signal_number))
