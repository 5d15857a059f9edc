"""``fedcmi report``: one HTML page of a run or of a bench, from the files that they left."""

from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.pages.bench import bench_page
from server_app.pages.run import run_page
from server_app.run.reader import ReportError, read_run

_OF_A_BENCH = ("bench.json", "results.csv")
_OF_A_RUN = ("config.json", "metrics.jsonl", "error.txt", "summary.md")


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
    text = bench_page(directory) if is_bench(directory) else run_page(read_run(directory, unfinished=True))
    path = out or directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


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
        raise ReportError(f"{directory}: no such directory; give the directory of a run or of a bench.")
    names = {path.name for path in directory.iterdir()}
    if names.isdisjoint((*_OF_A_BENCH, *_OF_A_RUN)):
        raise ReportError(
            f"{directory}: neither a run ({', '.join(_OF_A_RUN[:2])}) nor a bench ({_OF_A_BENCH[1]}); give the "
            "directory that `fedcmi run` or `fedcmi bench` printed."
        )
    return not names.isdisjoint(_OF_A_BENCH)
