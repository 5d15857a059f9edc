"""TensorBoard scalars of runs, made from their metrics.jsonl; needs the extra ``tracking``."""

from pathlib import Path

from fedcmi_flwr.machine.extras import needs
from server_app.figures.statistics import cumulative_megabytes
from server_app.pages.report import is_bench
from server_app.run.reader import ReportError, RunFiles, read_run
from server_app.run.scalars import scalars


def export_scalars(directory: Path, logs: Path) -> list[Path]:
    """Write the scalars of a run, or of every finished run of a bench, for TensorBoard.

    Parameters
    ----------
    directory
        A run directory, or the ``--out`` of a bench.
    logs
        TensorBoard's ``--logdir``; a bench's runs go to SETTING/METHOD/seedK below it.

    Returns
    -------
    The directories that were written.

    Raises
    ------
    ReportError
        The directory cannot be read, or ``logs`` holds events already.
    MissingExtraError
        TensorBoard is not installed.
    """
    if is_bench(directory):
        paths = sorted(path.parent for path in directory.glob("*/*/seed*/summary.md"))
    else:
        paths = [directory]

    runs = [(read_run(path, unfinished=True), logs / path.relative_to(directory)) for path in paths]
    for run, target in runs:
        if any(target.glob("events.out.tfevents.*")):
            raise ReportError(
                f"{target}: holds events already, and twice would show twice; give another "
                "directory."
            )
        _write(run, target)

    return [target for _, target in runs]


def _write(run: RunFiles, target: Path) -> None:
    with needs("tracking"):
        from torch.utils.tensorboard import SummaryWriter

    # TensorBoard's relative time is then the training time, and its wall time about that of the
    # run.
    clock = (run.path / "metrics.jsonl").stat().st_mtime - sum(
        record["seconds"] for record in run.records
    )
    with SummaryWriter(str(target)) as writer:
        megabytes = cumulative_megabytes(run.records)
        for record, sent in zip(run.records, megabytes.tolist(), strict=True):
            clock += record["seconds"]
            for tag, value, step in scalars(record, run.classes):
                writer.add_scalar(tag, value, step, walltime=clock)

            writer.add_scalar("cost/megabytes", sent, record["round"], walltime=clock)
