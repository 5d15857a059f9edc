"""A preparation as a user sees it: a bar while it runs, and what was made how fast at its end."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from data_prep.pipeline.execution import DecodingProgress, Show
from fedcmi_flwr.data.schema import read_spec


class SpeedColumn(ProgressColumn):
    """Samples per second, of the last half minute."""

    def render(self, task: Task) -> Text:
        """Return "12.3 samples/s", or nothing while there is nothing to go by."""
        return Text("" if task.speed is None else f"{task.speed:.1f} samples/s")


def prepare_visibly(console: Console, make: Callable[[Show], Path]) -> Path:
    """Run a preparation under a progress bar, and print what it made and how fast.

    Parameters
    ----------
    console
        Where to; the bar shows only on a terminal.
    make
        Given the ``show`` of :class:`data_prep.pipeline.execution.Execution`; returns the
        prepared directory.

    Returns
    -------
    What ``make`` returned.
    """
    start = time.perf_counter()
    last: DecodingProgress | None = None
    columns = (
        TextColumn("decoding"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)

        def show(progress: DecodingProgress) -> None:
            nonlocal last
            if last is None:  # what an earlier call made does not count for the speed
                bar.reset(task, total=progress.total, completed=progress.done)

            bar.update(task, completed=progress.done)
            last = progress

        made = make(show)

    stored = sum(read_spec(made).splits.values())
    console.print(finished(made, stored, last, time.perf_counter() - start), markup=False)

    return made


def finished(made: Path, stored: int, progress: DecodingProgress | None, seconds: float) -> str:
    """Return the line that says what was made.

    Parameters
    ----------
    made
        The prepared directory.
    stored
        Samples in it.
    progress
        How far decoding came; None when the directory was there already.
    seconds
        What the whole preparation took, reading and checking of the archive included.

    Returns
    -------
    One line; the rate counts what this call decoded.

    Examples
    --------
    >>> finished(Path("cremad"), 90, DecodingProgress(100, 100, 20), 4.0)
    'prepared cremad: 90 samples in 4.0 s (20.0 samples per second); 20 of them were there from an interrupted call'
    >>> finished(Path("cremad"), 90, None, 0.1)
    'prepared cremad: 90 samples, there already with these settings'
    """
    if progress is None:
        return f"prepared {made}: {stored} samples, there already with these settings"

    rate = (progress.done - progress.resumed) / seconds
    resumed = (
        f"; {progress.resumed} of them were there from an interrupted call"
        if progress.resumed
        else ""
    )

    return (
        f"prepared {made}: {stored} samples in {seconds:.1f} s ({rate:.1f} samples per "
        f"second){resumed}"
    )
