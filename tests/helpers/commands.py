"""``fedcmi ...`` in the test's own process, which has long imported what a new one would spend its
first seconds on.
"""

import os
import shlex
import signal
from pathlib import Path

from typer.testing import CliRunner, Result

from server_app.commands.main import app

POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that commands turn into an exit."""


def fedcmi(*arguments: str | os.PathLike[str]) -> Result:
    """Call a command; what it raises besides an exit is raised here, and signals are the test's
    again afterwards.
    """
    before = {number: signal.getsignal(number) for number in POLITE}
    try:
        return CliRunner().invoke(
            app, [os.fspath(argument) for argument in arguments], catch_exceptions=False
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def line(text: str) -> Result:
    """Call a command as it stands in a README; it must succeed."""
    program, *arguments = shlex.split(text)
    assert program == "fedcmi"
    done = fedcmi(*arguments)
    assert done.exit_code == 0, f"{text}\nin {Path.cwd()}\n{done.output}"
    return done
