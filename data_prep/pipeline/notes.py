"""What is to be known of a sample that is stored all the same.

That its file has another length than was promised.

Decoders note it in passing. It is kept beside the rows while they are made, since an interrupted
preparation goes on without decoding them again, and then in the prepared directory, where it is
counted by class and split.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from fedcmi_flwr.types import Modality

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[str]]:
    """Collect what decoders note inside the block.

    Yields
    ------
    The notes so far.

    Examples
    --------
    >>> with collecting() as notes:
    ...     note("shorter than 3 s")
    >>> notes
    ['shorter than 3 s']
    """
    notes: list[str] = []
    token = _COLLECTED.set(notes)
    try:
        yield notes
    finally:
        _COLLECTED.reset(token)


def note(text: str) -> None:
    """Note something about the sample that is being decoded.

    Nothing where nobody collects, as in prediction.

    Parameters
    ----------
    text
        What a sample is, to follow "of those that are stored": the same words for all samples of
        one kind.
    """
    notes = _COLLECTED.get()
    if notes is not None and text not in notes:
        notes.append(text)


def to_line(stamp: bytes, modality: Modality, text: str) -> bytes:
    """Return a line of the file of notes; ``stamp`` is the journal's line for the row."""
    return json.dumps([stamp.decode(), modality, text]).encode() + b"\n"


def read_notes(path: Path, stamps: Mapping[int, bytes]) -> list[tuple[int, Modality, str]]:
    """Read the notes on the rows as their files are now.

    Parameters
    ----------
    path
        The file of notes; it need not be there.
    stamps
        Row -> the journal's line for it.

    Returns
    -------
    Row, modality and text, in this order, each once.
    """
    rows = {stamp.decode(): row for row, stamp in stamps.items()}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = {(stamp, modality, text) for stamp, modality, text in map(json.loads, lines)}

    return sorted((rows[stamp], modality, text) for stamp, modality, text in found if stamp in rows)
