"""How commands speak to their user, and how they end."""

import contextlib
import errno
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click
import typer
from rich.console import Console
from rich.markup import escape
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

AGAIN = "the same command goes on where it stopped."
"""Advice after an interruption."""
INTERRUPTIONS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals by which a user or a system ends a command; Windows has no SIGHUP."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that takes no more."""

console = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)
"""What they print is printed as it is: a name may look like markup."""


@contextlib.contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """Keep the last part of what is shown on a line of its own that moves while nothing new comes.

    In a terminal only.

    Yields
    ------
    What shows a line.
    """
    with console.status("starting ...") as status:

        def show(line: str) -> None:
            console.print(line)
            name, _, rest = line.partition(" | ")
            left = rest.rpartition(" | ")[2]
            status.update(escape(f"{name}, {left}" if " left, until " in left else name))

        yield show


def fail(reason: object) -> typer.Exit:
    """Print why a command failed, and return what is to be raised: exit status 1."""
    errors.print(Text.assemble(("error:", "bold red"), f" {reason}"))
    return typer.Exit(1)


def fail_run(error: Exception, advice: str) -> typer.Exit:
    """Print why a run failed and, where it had begun or the disk was full, how to go on.

    Parameters
    ----------
    error
        Why.
    advice
        How to go on with it, the second half of a sentence; empty: it had not begun.

    Returns
    -------
    What is to be raised: exit status 1.
    """
    leave = fail(error)
    if advice:
        errors.print(f"when that is mended, {advice}")
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        errors.print("nothing was trained yet: make room, then call the same command again.")

    return leave


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


def end_with_what_was_started(advice: Callable[[], str]) -> None:
    """Turn Ctrl-C, a polite kill and a closed terminal into an exit, so that every `finally` stops
    what it started.

    Another one of them changes nothing: stopping takes half a minute at most.

    Parameters
    ----------
    advice
        What the user can do then, the second half of a sentence; called when it is needed.
    """
    known = [getattr(signal, name) for name in INTERRUPTIONS if hasattr(signal, name)]

    def end(number: int, frame: FrameType | None) -> None:
        for each in known:
            signal.signal(each, signal.SIG_IGN)

        errors.print(f"interrupted; {advice()}")
        sys.exit(128 + number)

    for number in known:
        signal.signal(number, end)
