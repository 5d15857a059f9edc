"""``fedcmi report``: one HTML page of a run or of a bench, from the files that they left."""

from pathlib import Path

from server_app.run_page import run_page
from server_app.run_reader import ReportError, read_run


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
        The directory holds neither, or what it holds is unfinished or broken.
    """
    text = run_page(read_run(directory))
    path = out or directory / "report.html"
    path.write_text(text, encoding="utf-8")
    return path
