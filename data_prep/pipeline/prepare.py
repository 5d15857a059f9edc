"""From a plan of samples to a prepared directory: decoded by many processes, resumable, always the same bytes.

A data set says what is to be made (:class:`Plan`): each sample's label, group and split, and for each of its modalities
a *job* (file, segment, ...) that the modality's *stream* turns into an array. Rows are decoded into files beside the
final directory, ``.<name>.rows`` (``rows.py``), each row at its own place, and noted in a journal when they are there.
A killed preparation goes on from the journal. What is stored depends on the plan alone: neither on the number of
workers nor on their order. Memory stays flat: a worker holds one sample, and only its verdict travels back.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from data_prep.errors import PrepError
from data_prep.pipeline.assembly import assemble
from data_prep.pipeline.plan import Plan, Planned
from data_prep.pipeline.rows import RowStore, Show, decode_rows
from data_prep.pipeline.writer import Exclusion, check_unreadable, write_excluded, write_prepared
from fedcmi_flwr.data.schema import DatasetSpec


class Execution(TypedDict, total=False):
    """How a preparation is carried out; none of it changes what is stored. See :func:`prepare`."""

    workers: int
    max_bad: int
    show: Show


def prepare(
    out: Path,
    name: str,
    settings: Mapping[str, Any],
    make_plan: Callable[[], Plan],
    *,
    workers: int = 1,
    max_bad: int = 0,
    show: Show = lambda progress: None,
) -> Path:
    """Make a prepared directory, or go on where an interrupted call stopped.

    Parameters
    ----------
    out
        The final path; nothing stands there before it is finished.
    name
        The data set's name.
    settings
        All that decides what is stored, JSON values; neither ``workers`` nor ``max_bad``.
    make_plan
        Looks at the raw archive; not called when ``out`` is finished already.
    workers
        Processes that decode, 1 or more.
    max_bad
        How many samples may be left out because a source file cannot be used; they are listed in ``excluded.csv``.
    show
        Called in this process after each block.

    Returns
    -------
    The finished directory, absolute.

    Raises
    ------
    PrepError
        More unusable files than allowed, no space on the disk, a worker that died, or something else at ``out``.
    """
    if workers < 1 or max_bad < 0:
        raise PrepError(f"workers = {workers}, max_bad = {max_bad}: must be at least 1 and at least 0.")
    rows = out.resolve().with_name(f".{out.name}.rows")

    def build(directory: Path) -> DatasetSpec:
        plan = make_plan()
        _check_plan(plan)
        with _disk_space(rows):
            store = RowStore(rows, plan, name, settings)
            bad = decode_rows(store, workers, show)
            unreadable = [_exclusion(plan.samples[row], reason) for row, reason in bad.items()]
            check_unreadable(unreadable, max_bad)
            write_excluded(directory, [*plan.excluded, *unreadable])
            return assemble(store, list(bad), directory, name, settings)

    made = write_prepared(out, name, settings, build)
    shutil.rmtree(rows, ignore_errors=True)
    return made


def _check_plan(plan: Plan) -> None:
    seen: set[tuple[str, str]] = set()
    for sample in plan.samples:
        if (sample.split, sample.id) in seen:
            raise PrepError(f"split {sample.split!r}: two samples are called {sample.id!r}; ids must differ.")
        seen.add((sample.split, sample.id))
        if not sample.jobs:
            raise PrepError(f"sample {sample.id!r}: has none of {[stream.name for stream in plan.streams]}.")
    if not plan.samples:
        raise PrepError("no samples are left to prepare; look at the raw archive and the settings.")


def _exclusion(sample: Planned, reason: str) -> Exclusion:
    return Exclusion(sample.id, sample.split, ";".join(sample.sources.values()), reason)


@contextlib.contextmanager
def _disk_space(rows: Path) -> Iterator[None]:
    """Turn a full disk into an error that says so; what is decoded stays for the next call."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(rows.parent).free
        raise PrepError(
            f"{rows.parent}: the disk is full ({error.strerror}; {free / 1e6:.1f} MB free). Make room and call again."
        ) from error
