"""Your own data: a table of samples and their files -> prepared directory, for any two or more
modalities.

The table (``manifest_table.py``) has the columns ``id``, ``label``, ``split`` (train, val,
test), ``group`` (optional: the person, device or place that a sample comes from; the id if left
out) and one column for each modality. Its cells are paths relative to the raw directory; those
of a text modality hold the text itself. An empty cell is a modality that the sample lacks.

A modality of the kind "vector:age,bmi" is made of several columns of numbers. A sample whose
cells there are all empty, or NaN, lacks the modality; one of which some are empty cannot be
used: it is counted against ``max_bad`` and listed in ``excluded.csv``. Nothing is filled in.

One of the kind "table:age,sex" holds numbers and categories (``table_columns.py``). Some of its
cells may be missing, which is stored beside them (``media/table.py``); a sample whose cells are
all empty lacks the modality.

A server and its devices prepare their data each for itself (``role``): one modality, one split,
missing classes and columns without any cell are fine there. What they must agree on stands in a
file (``federation.py``).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError
from data_prep.media.hashed import is_hashed
from data_prep.media.signature import refuse_pointers
from data_prep.media.table import CellError, Table, table_stream
from data_prep.media.vector import Cells, read_cells, vector_stream
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import MeanStd, Plan, Planned, Stream, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.federation import Federation
from data_prep.sets.manifest_kinds import KINDS, Sizes, columns_of, features_of, kind_of
from data_prep.sets.manifest_table import (
    Entry,
    class_names,
    find_file,
    manifest_columns,
    read_manifest,
)
from data_prep.sets.table_columns import measure_table
from fedcmi_flwr.types import Modality

NAME = "manifest"
DEVICE, SERVER = "device", "server"
ROLES = (DEVICE, SERVER)
"""Whose data a directory may be, where each has its own."""
NEEDED = {None: ("train", "test"), DEVICE: (), SERVER: ("test",)}
"""Role -> splits that must have samples."""
Measured = tuple[Table, MeanStd]
"""A table, and what its features are normalised by."""


def prepare(
    manifest: Path,
    raw: Path,
    out: Path,
    modalities: Mapping[Modality, str],
    *,
    sizes: Sizes | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    role: str | None = None,
    federation: Federation | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare what a manifest lists; the same settings, manifest and files give the same bytes.

    Parameters
    ----------
    manifest
        CSV or Parquet.
    raw
        The directory that its paths are relative to.
    out
        The prepared directory to make.
    modalities
        Column -> kind, in stored order; :func:`data_prep.sets.manifest_kinds.parse_modalities`
        checks them. Of a federation: what is asked for, or nothing for all of its modalities
        that the manifest has.
    sizes
        What is stored of each sample, as a whole or the fields that differ from the defaults; of
        a federation it may only repeat what the federation has.
    classes
        Labels in index order; None: the federation's, else sorted, as numbers where all are
        integers.
    role
        One of ROLES; None: all data of a federation, to be dealt to simulated nodes.
    federation
        What the directory must agree with; a device needs it.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and
        who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        There is no such manifest or raw directory.
    PrepError
        A manifest or files that cannot be used, or do not agree with the federation; or
        something else at ``out``.
    """
    _check_role(role, federation, modalities)
    for what, path, there in (
        ("manifest", manifest, manifest.is_file()),
        ("directory", raw, raw.is_dir()),
    ):
        if not there:
            raise FileNotFoundError(f"{path}: not found, expected a {what}.")

    if federation is None:
        whole = sizes if isinstance(sizes, Sizes) else Sizes(**(sizes or {}))
        how: _Alone | _Federated = _Alone(dict(modalities), whole, classes)
    else:
        chosen = federation.choose(modalities, manifest_columns(manifest))
        asked = vars(sizes) if isinstance(sizes, Sizes) else sizes or {}
        federation.check(classes, asked, chosen)
        how = _Federated(chosen, federation)

    settings = {
        "modalities": how.modalities,
        "manifest_sha256": _sha256(manifest),
        **how.settings(),
    }
    settings |= {} if role is None else {"for": role}

    def make_plan() -> Plan:
        entries = read_manifest(manifest, columns_of(how.modalities), NEEDED[role])
        where = "" if federation is None else f" of {federation.path}"
        names = class_names(entries, how.classes, is_whole=role is None, where=where)
        tables = {
            name: how.table(name, entries)
            for name, kind in how.modalities.items()
            if kind_of(kind) == "table"
        }
        samples = [_plan(raw, entry, how.modalities, names, tables) for entry in entries]
        refuse_pointers(
            (Path(file) for sample in samples for file in sample.files), execution.max_bad
        )
        streams = [_stream(raw, entries, name, how, role, tables) for name in how.modalities]

        return Plan(names, streams, samples, (), how.tools())

    return prepare_plan(
        out, NAME if federation is None else federation.name, settings, make_plan, execution
    )


def _check_role(
    role: str | None, federation: Federation | None, modalities: Mapping[Modality, str]
) -> None:
    if role is not None and role not in ROLES:
        raise PrepError(f"for {role!r}: must be {' or '.join(ROLES)}.")
    if role is None and federation is not None:
        raise PrepError(f"{federation.path}: say whose data this is, --for device or --for server.")
    if role == DEVICE and federation is None:
        raise PrepError(
            "a device's data must agree with the server's: give --federation FILE, the file that "
            "`fedcmi prep describe` writes there."
        )
    if federation is None and not modalities:
        raise PrepError("no modality: give --modality NAME=KIND.")


@dataclass(frozen=True)
class _Alone:
    """A directory that decides itself what is stored."""

    modalities: dict[Modality, str]
    sizes: Sizes
    classes: Sequence[str] | None

    def settings(self) -> dict[str, Any]:
        """Return what decides the stored values, beside modalities and manifest."""
        found: dict[str, Any] = {"classes": None if self.classes is None else list(self.classes)}
        found |= {"streams": dict(self.sizes.streams)} if self.sizes.streams else {}
        return found | {kind: KINDS[kind].settings(self.sizes) for kind in _kinds(self.modalities)}

    def tools(self) -> dict[str, str]:
        """Return the versions of what decodes it, and where the tokenizer was found."""
        kinds = _kinds(self.modalities)
        found = _versions(kinds, is_hashed(self.sizes.tokenizer))
        return found | ({"tokenizer": self.sizes.tokenizer} if "text" in kinds else {})

    def table(self, name: Modality, entries: Sequence[Entry]) -> Measured:
        """Return what the columns of a table are, as its rows say."""
        return measure_table(entries, features_of(self.modalities[name]), self.sizes.categories)

    def stream(self, name: Modality, files: Sequence[Path]) -> Stream:
        """Return how a modality is made."""
        return KINDS[kind_of(self.modalities[name])].stream(name, self.sizes, files)


@dataclass(frozen=True)
class _Federated:
    """A directory that stores what its federation does."""

    modalities: dict[Modality, str]
    federation: Federation

    @property
    def classes(self) -> Sequence[str]:
        """The federation's."""
        return self.federation.classes

    def settings(self) -> dict[str, Any]:
        """Return what decides the stored values, beside modalities and manifest."""
        return {"federation_sha256": _sha256(self.federation.path)}

    def tools(self) -> dict[str, str]:
        """Return the versions of what decodes it."""
        texts = [
            self.federation.recipes[name]
            for name, kind in self.modalities.items()
            if kind_of(kind) == "text"
        ]
        return _versions(
            _kinds(self.modalities), all(is_hashed(recipe["tokenizer"]) for recipe in texts)
        )

    def table(self, name: Modality, entries: Sequence[Entry]) -> Measured:
        """Return what the columns of a table are in the federation."""
        return self.federation.table(name)

    def stream(self, name: Modality, files: Sequence[Path]) -> Stream:
        """Return how a modality is made."""
        return self.federation.stream(name, files)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kinds(modalities: Mapping[Modality, str]) -> list[str]:
    return sorted({kind_of(kind) for kind in modalities.values()})


def _versions(kinds: Sequence[str], hashed: bool) -> dict[str, str]:
    """Return the versions of the packages that decode these kinds; hashed tokenizers need none."""
    decoded = [kind for kind in kinds if not (hashed and kind == "text")]
    return tool_versions(
        "numpy", *dict.fromkeys(package for kind in decoded for package in KINDS[kind].packages)
    )


def _plan(
    raw: Path,
    entry: Entry,
    modalities: Mapping[Modality, str],
    classes: Sequence[str],
    tables: Mapping[Modality, Measured],
) -> Planned:
    jobs, sources, files = dict[str, Any](), dict[str, str](), list[str]()
    for name, kind in modalities.items():
        columns = features_of(kind)
        if columns:
            made = _vector(entry, columns) if name not in tables else _row(entry, tables[name][0])
            if made is not None:
                jobs[name], sources[name] = made, entry.place
        elif name in entry.cells:
            job, cell = KINDS[kind].job, entry.cells[name]
            if job is None:
                jobs[name] = cell
            else:
                file = find_file(raw, entry, name)
                jobs[name] = job(file)
                files.append(str(file))

            sources[name] = entry.place if job is None else cell

    return Planned(
        entry.id, classes.index(entry.label), entry.group, entry.split, jobs, sources, files
    )


def _vector(entry: Entry, columns: Sequence[str]) -> Cells | None:
    """Return the job of a vector; None for a sample that lacks it."""
    return read_cells(
        entry.where, entry.place, [(column, entry.cells.get(column, "")) for column in columns]
    )


def _row(entry: Entry, table: Table) -> tuple[float, ...] | None:
    """Return the job of a table; None for a sample that lacks all of its cells."""
    if not any(column in entry.cells for column in table.columns):
        return None
    try:
        return table.encode(entry.cells)
    except CellError as error:
        raise PrepError(f"{entry.where}, {error}") from error


def _stream(
    raw: Path,
    entries: Sequence[Entry],
    name: Modality,
    how: _Alone | _Federated,
    role: str | None,
    tables: Mapping[Modality, Measured],
) -> Stream:
    columns = features_of(how.modalities[name])
    if columns and isinstance(how, _Alone):
        return (
            table_stream(name, *tables[name])
            if name in tables
            else vector_stream(name, len(columns), columns)
        )

    cells = [entry.cells[name] for entry in entries if name in entry.cells]
    if not cells and not columns and role is None:
        raise PrepError(f"column {name!r}: all cells are empty; leave it out.")

    return how.stream(name, [raw / cell for cell in cells])
