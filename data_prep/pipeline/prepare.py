"""From a plan of samples to a prepared directory.

Decoded by many processes, resumable, always the same bytes.

A data set says what is to be made (:class:`Plan`): each sample's label, group and split, and for
each of its modalities a *job* (file, segment, ...) that the modality's *stream* turns into an
array. Rows are decoded into files beside the final directory, ``.<name>.rows``, each row at its
own position, and noted in a journal when they are there. A killed preparation goes on from the
journal. What is stored depends on the plan alone: neither on the number of workers nor on their
order. Memory stays flat: a worker holds one sample, and only its verdict travels back.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError
from data_prep.pipeline.assembly import assemble
from data_prep.pipeline.decoding import decode_rows
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.notes import read_notes
from data_prep.pipeline.plan import Exclusion, Plan, Planned
from data_prep.pipeline.rows import RowStore
from data_prep.pipeline.tables import EXCLUDED, write_excluded, write_noted
from data_prep.pipeline.writer import write_prepared
from fedcmi_flwr.data.schema import DatasetSpec


def prepare_plan(
    out: Path,
    name: str,
    settings: Mapping[str, Any],
    make_plan: Callable[[], Plan],
    execution: Execution = SERIAL,
) -> Path:
    """Make a prepared directory, or go on where an interrupted call stopped.

    Parameters
    ----------
    out
        The final path; nothing stands there before it is finished.
    name
        The data set's name.
    settings
        All that decides what is stored, JSON values.
    make_plan
        Looks at the raw archive; not called when ``out`` is finished already.
    execution
        Workers, how many samples may be left out because a source file cannot be used, and who
        is told.

    Returns
    -------
    The finished directory, absolute.

    Raises
    ------
    PrepError
        More unusable files than allowed, no space on the disk, a worker that died, or something
        else at ``out``.
    """
    rows = out.resolve().with_name(f".{out.name}.rows")

    def build(directory: Path) -> DatasetSpec:
        plan = make_plan()
        plan.check()
        with _disk_space(rows):
            store = RowStore(rows, plan, name, settings)
            bad = decode_rows(store, execution)
            unreadable = [
                _exclusion(plan, plan.samples[row], reason) for row, reason in bad.items()
            ]
            excluded = [*plan.excluded, *unreadable]
            write_excluded(rows, excluded)  # for whoever is told that they are too many
            execution.tolerate(unreadable, rows / EXCLUDED)
            write_excluded(directory, excluded)

            stored = {row: store.line(row) for row in range(len(plan.samples)) if row not in bad}
            write_noted(directory, plan.samples, read_notes(store.notes, stored))

            return assemble(store, list(bad), directory, name, settings)

    made = write_prepared(out, name, settings, build)
    shutil.rmtree(rows, ignore_errors=True)

    return made


def _exclusion(plan: Plan, sample: Planned, reason: str) -> Exclusion:
    sources = ";".join(sample.sources.values())
    return Exclusion(sample.id, sample.split, sources, reason, plan.classes[sample.label])


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
            f"{rows.parent}: the disk is full ({error.strerror}; {free / 1e6:.1f} MB free). Make "
            "room and call again."
        ) from error
