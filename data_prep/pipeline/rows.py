"""Decoded rows on the disk: each at its own place, with a journal that says which are there."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.pipeline.plan import Plan, Stream
from fedcmi_flwr.types import Modality


@dataclass(frozen=True)
class RowFile:
    """The rows of one modality of one split, as an ``.npy`` file of its full size."""

    path: Path
    header: int
    """Bytes before the first row."""

    def write(self, position: int, row: bytes) -> None:
        """Put a row at its place; other processes may write other rows meanwhile."""
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            place = self.header + position * len(row)
            while row:
                written = os.pwrite(descriptor, row, place)
                place, row = place + written, row[written:]
        finally:
            os.close(descriptor)


class RowStore:
    """Where the rows of a plan are decoded to, and which of them are there.

    Parameters
    ----------
    directory
        Made, or gone on with when it holds rows of the same plan and settings; otherwise replaced.
    plan
        What is to be made.
    name
        The data set's name.
    settings
        What decides the stored values.
    """

    def __init__(self, directory: Path, plan: Plan, name: str, settings: Mapping[str, Any]) -> None:
        self.plan = plan
        self.directory = directory
        self.positions: list[int] = []
        """Of each sample, within its split."""
        self.sizes: dict[str, int] = {}
        """Samples of each split."""
        for sample in plan.samples:
            self.positions.append(self.sizes.get(sample.split, 0))
            self.sizes[sample.split] = self.positions[-1] + 1

        self.files: dict[tuple[str, Modality], RowFile] = {}
        fingerprint = _fingerprint(plan, name, settings)
        plan_file = directory / "plan.sha256"
        known = plan_file.is_file() and plan_file.read_text(encoding="ascii") == fingerprint
        if not known:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

        for split in self.sizes:
            for stream in plan.streams:
                self.files[split, stream.name] = self._open(split, stream)

        if not known:
            # Last: only now are the files whole
            plan_file.write_text(fingerprint, encoding="ascii")

    def _open(self, split: str, stream: Stream) -> RowFile:
        """Make a file of its full size, so that a full disk shows now; keep one that is there."""
        path = self.directory / f"{split}.{stream.name}.npy"
        dtype, count = np.dtype(stream.dtype), self.sizes[split]
        shape = (count, *stream.shape)
        with path.open("r+b" if path.exists() else "w+b") as file:
            described = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, described)
            header = file.tell()

            try:
                os.posix_fallocate(file.fileno(), 0, header + count * stream.row_bytes)
            except OSError:
                shutil.rmtree(self.directory, ignore_errors=True)
                raise

        return RowFile(path, header)

    @property
    def journal(self) -> Path:
        """One line for each row that is there.

        Its number, and the stamp of the files that it was decoded from.
        """
        return self.directory / "journal"

    @property
    def notes(self) -> Path:
        """What is to be known of rows that are there; see :mod:`data_prep.pipeline.notes`."""
        return self.directory / "notes"

    def line(self, row: int) -> bytes:
        """Return the journal's line for a row, as its files are now."""
        return f"{row} {_stamp(self.plan.samples[row].files)}\n".encode()

    def finished(self) -> set[int]:
        """Return the numbers of the samples that are there, and whose files have not
        changed since.
        """
        lines = set(self.journal.read_bytes().splitlines(keepends=True))
        return {row for row in range(len(self.plan.samples)) if self.line(row) in lines}

    def mend_journal(self) -> None:
        """Remove a last line that was cut off, of the journal and of the notes."""
        for path in (self.journal, self.notes):
            content = path.read_bytes() if path.is_file() else b""
            path.write_bytes(content[: content.rfind(b"\n") + 1])


def _stamp(files: Sequence[str]) -> str:
    """Return a hash of the sizes and modification times of files.

    A file that is not there has neither.
    """
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns))

    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _fingerprint(plan: Plan, name: str, settings: Mapping[str, Any]) -> str:
    """Return a hash of all that decides the rows and their places."""
    streams = [(stream.name, stream.kind, stream.shape, stream.dtype) for stream in plan.streams]
    digest = hashlib.sha256(
        json.dumps([name, settings, streams], sort_keys=True, default=str).encode()
    )
    for sample in plan.samples:
        digest.update(repr((sample.id, sample.split, sorted(sample.jobs.items()))).encode())

    return digest.hexdigest()
