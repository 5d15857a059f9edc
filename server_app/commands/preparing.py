"""What the commands of ``fedcmi prep`` share: options, the progress bar, and the summary."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server_app.commands.terminal import AGAIN, console, end_with_what_was_started, fail

if TYPE_CHECKING:
    from data_prep.pipeline.execution import Show

OutOption = Annotated[
    Path, typer.Option(help="Directory to make; a second call goes on where the first stopped.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode; default: one per core.")
]
MaxBadOption = Annotated[
    int, typer.Option(min=0, help="Samples with unusable files to put up with.")
]


def prepare_and_show(make: Callable[..., Path], workers: int | None, max_bad: int = 0) -> None:
    """Make a prepared directory under a progress bar; then say how fast it went and what is in it.

    ``make`` takes ``execution``, as the data sets' ``prepare`` does.
    """
    end_with_what_was_started(lambda: AGAIN)

    from data_prep.inspection.progress import prepare_visibly
    from data_prep.pipeline.execution import Execution
    from fedcmi_flwr.machine.workers import usable_cores

    cores = usable_cores()

    def make_and_show(show: "Show") -> Path:
        return make(execution=Execution(workers or cores, max_bad, show))

    try:
        show_summary(prepare_visibly(console, make_and_show))
    except (OSError, ValueError) as error:
        raise fail(error) from error


def show_summary(directory: Path) -> None:
    """Show what is in a prepared directory."""
    from data_prep.inspection import summary

    console.print(summary.render(summary.summarise(directory)))
