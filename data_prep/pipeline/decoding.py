"""From jobs to rows.

Decoded by workers, block by block, and noted in the journal when they are there.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.pipeline.execution import DecodingProgress, Execution
from data_prep.pipeline.notes import collecting, to_line
from data_prep.pipeline.plan import Planned, Stream
from data_prep.pipeline.rows import RowFile, RowStore
from data_prep.pipeline.workers import run_tasks
from fedcmi_flwr.types import Modality

BLOCK = 8
"""Samples that a worker makes in one task."""
Block = Sequence[tuple[int, int, Planned]]
"""Row number, position within the split, sample."""
Verdict = tuple[int, str | None, Sequence[tuple[Modality, str]]]
"""Row number, why it cannot be made, and what is to be known of it."""


def decode_rows(store: RowStore, execution: Execution) -> dict[int, str]:
    """Decode every row that is not there yet.

    Rows that could not be decoded before are tried again.

    Parameters
    ----------
    store
        Where to.
    execution
        By how many processes, and who is told after each block.

    Returns
    -------
    Number of the sample -> why it cannot be made, in the order of the plan.
    """
    store.mend_journal()
    # Before decoding: what changes is redone
    stamps = {row: store.line(row) for row in range(len(store.plan.samples))}
    there, total = store.finished(), len(store.plan.samples)
    todo = [row for row in range(total) if row not in there]
    work = partial(_make_block, {stream.name: stream for stream in store.plan.streams}, store.files)

    bad: dict[int, str] = {}
    done = len(there)
    execution.show(DecodingProgress(done, total, len(there)))
    with store.journal.open("ab") as journal, store.notes.open("ab") as notes:
        for verdicts in run_tasks(work, _blocks(store, todo), execution.workers):
            bad |= {row: reason for row, reason, _ in verdicts if reason is not None}
            for row, _, noted in verdicts:
                notes.writelines(to_line(stamps[row], name, text) for name, text in noted)

            notes.flush()  # before the rows count as there
            journal.write(b"".join(stamps[row] for row, reason, _ in verdicts if reason is None))
            journal.flush()
            done += len(verdicts)
            execution.show(DecodingProgress(done, total, len(there)))

    return dict(sorted(bad.items()))


def _blocks(store: RowStore, todo: Sequence[int]) -> Iterator[Block]:
    for start in range(0, len(todo), BLOCK):
        rows = todo[start : start + BLOCK]
        yield [(row, store.positions[row], store.plan.samples[row]) for row in rows]


def _make_block(
    streams: Mapping[Modality, Stream], files: Mapping[tuple[str, Modality], RowFile], block: Block
) -> list[Verdict]:
    """Decode and write the samples of a block.

    Return why those that could not be decoded could not.
    """
    verdicts: list[Verdict] = []
    for row, position, sample in block:
        made: dict[Modality, bytes] = {}
        noted: list[tuple[Modality, str]] = []
        try:
            for name in sample.jobs:
                with collecting() as notes:
                    made[name] = _decode(streams[name], sample)

                noted += [(name, text) for text in notes]
        except UnreadableFileError as error:
            verdicts.append((row, f"{error.path.name}: {error.reason}", ()))
            continue

        for name, content in made.items():
            files[sample.split, name].write(position, content)

        verdicts.append((row, None, noted))

    return verdicts


def _decode(stream: Stream, sample: Planned) -> bytes:
    """Return one modality of a sample as it is stored."""
    try:
        array = np.asarray(stream.decode(sample.jobs[stream.name]))
    except (UnreadableFileError, OSError):
        raise
    except Exception as error:
        raise PrepError(
            f"{stream.name} of sample {sample.id!r} ({sample.sources.get(stream.name)}): the "
            f"decoder failed with {type(error).__name__}: {error}"
        ) from error

    if array.shape != stream.shape:
        raise PrepError(
            f"{stream.name} of sample {sample.id!r}: shape {array.shape}, planned was "
            f"{stream.shape}."
        )

    with np.errstate(over="ignore"):  # infinities are found below
        stored = array.astype(stream.dtype)

    if not np.isfinite(stored).all():
        source = Path(sample.sources[stream.name])
        raise UnreadableFileError(
            source, f"{stream.name} is not finite as {stream.dtype}; look at the file."
        )

    return stored.tobytes()
