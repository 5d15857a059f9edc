"""``fedcmi report``: a run or a bench, shown."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.commands.terminal import console, end_with_what_was_started, fail


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run, or --out of a bench.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the directory.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep the page of a run current until it is over.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard scalars into this directory too.")
    ] = None,
) -> None:
    """Put a run or a bench on one HTML page that opens without network."""
    from server_app.pages.report import watch_run, write_report
    from server_app.pages.tensorboard import export_scalars

    try:
        if watch:
            end_with_what_was_started(lambda: "the page stays as it is.")
            console.print(f"report: {out or directory / 'report.html'}, until the run is over")
            watch_run(directory, out)
        else:
            console.print(f"report: {write_report(directory, out)}")

        if tensorboard is not None:
            export_scalars(directory, tensorboard)
            console.print(f"scalars: tensorboard --logdir {tensorboard}")
    except (OSError, ValueError) as error:
        raise fail(error) from error
