"""``fedcmi report``: one HTML page of a run or of a bench, from the files that they left."""

import time
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.pages.bench import bench_page
from server_app.pages.run import run_page
from server_app.run.reader import ReportError, read_run

_OF_A_BENCH = ("bench.json", "results.csv")
_OF_A_RUN = ("config.json", "metrics.jsonl", "error.txt", "summary.md")
REFRESH = 10
"""Seconds between two looks of a browser at the page of a run that goes on."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at such a run."""


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Write the page of a run or of a bench.

    Parameters
    ----------
    directory
        A run directory, or the ``--out`` of a bench.
    out
        The page; None: ``report.html`` in the directory.

    Returns
    -------
    The page's path.

    Raises
    ------
    ReportError
        The directory holds neither, or what it holds is broken, or a bench that is unfinished.
    """
    text = (
        bench_page(directory)
        if is_bench(directory)
        else run_page(read_run(directory, unfinished=True))
    )
    path = out or directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)

    return path


def watch_run(directory: Path, out: Path | None = None) -> Path:
    """Write the page of a run after each of its rounds, until it is over.

    Parameters
    ----------
    directory
        A run directory; the run may not have begun yet.
    out
        As for :func:`write_report`.

    Returns
    -------
    The page's path; a browser that has it open reads it again every ``REFRESH`` seconds.

    Raises
    ------
    ReportError
        What the directory holds is broken.
    """
    path, seen = out or directory / "report.html", None
    while True:
        over = any((directory / name).is_file() for name in ("summary.md", "error.txt"))
        metrics = directory / "metrics.jsonl"
        now = (over, metrics.stat().st_size if metrics.is_file() else 0)
        if over or (now != seen and (directory / "config.json").is_file()):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, run_page(read_run(directory, unfinished=True), REFRESH))
            seen = now

        if over:
            return path

        time.sleep(LOOK_AGAIN)


def is_bench(directory: Path) -> bool:
    """Tell the directory of a bench from that of a run.

    Parameters
    ----------
    directory
        Of either.

    Returns
    -------
    Whether it is a bench's.

    Raises
    ------
    ReportError
        It is neither.
    """
    if not directory.is_dir():
        raise ReportError(
            f"{directory}: no such directory; give the directory of a run or of a bench."
        )

    names = {path.name for path in directory.iterdir()}
    if names.isdisjoint((*_OF_A_BENCH, *_OF_A_RUN)):
        raise ReportError(
            f"{directory}: neither a run ({', '.join(_OF_A_RUN[:2])}) nor a bench "
            f"({_OF_A_BENCH[1]}); give the directory that `fedcmi run` or `fedcmi bench` printed."
        )

    return not names.isdisjoint(_OF_A_BENCH)
