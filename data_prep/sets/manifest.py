"""Your own data: a table of samples and their files -> prepared directory, for any two or more modalities.

The table (``manifest_table.py``) has the columns ``id``, ``label``, ``split`` (train, val, test), ``group`` (optional:
the person, device or place that a sample comes from; the id if left out) and one column for each modality. Its cells
are paths relative to the raw directory; those of a text modality hold the text itself. An empty cell is a modality
that the sample lacks.

A modality of the kind "vector:age,bmi" is made of several columns of numbers. A sample whose cells there are all empty,
or NaN, lacks the modality; one of which some are empty cannot be used: it is counted against ``max_bad`` and listed in
``excluded.csv``. Nothing is filled in.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.clips import audio_stream, visual_stream
from data_prep.media.photo import PADDING, PHOTO_SIZE, photo_stream
from data_prep.media.series import POINTS, read_series, series_stream
from data_prep.media.text import DEFAULT_TOKENIZER, TOKENS, text_stream, text_tools, vocabulary
from data_prep.media.vector import read_cells, read_vector, vector_stream
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Plan, Planned, Stream, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.manifest_table import OWN_COLUMNS, Entry, class_names, find_file, read_manifest
from fedcmi_flwr.data.prepared import check_modality_names
from fedcmi_flwr.types import Modality

NAME = "manifest"


@dataclass(frozen=True)
class Sizes:
    """What is stored of each sample, for the kinds of modality that the manifest has."""

    image_size: int = PHOTO_SIZE
    """Height and width of images and of videos' frames in pixels; images are padded to a square, frames stretched."""
    seconds: float = 3.0
    """Of sound, repeated to this length or cut to it."""
    frames: int = 3
    """Of a video, at the centres of equal parts of it."""
    tokens: int = TOKENS
    """Tokens of a text, [CLS] and [SEP] included."""
    tokenizer: str = DEFAULT_TOKENIZER
    """BERT's: a directory with ``vocab.txt`` or ``tokenizer.json``, or a name on the hub."""
    points: int = POINTS
    """Of a numeric series, resampled linearly from the whole of it."""


@dataclass(frozen=True)
class Kind:
    """How modalities of one kind are made."""

    stream: Callable[[Modality, Sizes, Sequence[Path]], Stream]
    """Given the modality's files in the order of the manifest, if it has files."""
    settings: Callable[[Sizes], Mapping[str, Any]]
    """What of the sizes decides the stored values."""
    tools: Callable[[Sizes], Mapping[str, str]]
    """Versions of what decodes it."""
    job: Callable[[Path], Any] | None = str
    """What a worker is given to make a file's array of; None: cells are no paths, and given as they are."""


def _series(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    """All series have the channels of the first one that can be read."""
    for file in files:
        try:
            return series_stream(name, read_series(file).shape[1], sizes.points)
        except UnreadableFileError as error:
            reason = error
    raise PrepError(f"{name}: none of its {len(files)} files can be read, the last one because: {reason}")


def _vector(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    """All vectors have the features of the first one that can be read."""
    for file in files:
        try:
            return vector_stream(name, len(read_vector(file)))
        except UnreadableFileError as error:
            reason = error
    raise PrepError(f"{name}: none of its {len(files)} files can be read, the last one because: {reason}")


def _audio(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    if not 0.1 <= sizes.seconds < math.inf:
        raise PrepError(f"seconds = {sizes.seconds}: must be 0.1 or more.")
    return audio_stream(name, sizes.seconds)


def _video(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    if sizes.frames < 1:
        raise PrepError(f"frames = {sizes.frames}: must be 1 or more.")
    return visual_stream(name, sizes.frames, sizes.image_size)


KINDS = {
    "audio": Kind(
        _audio,
        lambda sizes: {"seconds": sizes.seconds},
        lambda sizes: tool_versions("torch", "torchaudio", "soundfile", "av"),
        lambda path: (str(path), None, True),
    ),
    "image": Kind(
        lambda name, sizes, files: photo_stream(name, sizes.image_size),
        lambda sizes: {"image_size": sizes.image_size, "padding": list(PADDING)},
        lambda sizes: tool_versions("pillow"),
    ),
    "series": Kind(_series, lambda sizes: {"points": sizes.points}, lambda sizes: {}),
    "text": Kind(
        lambda name, sizes, files: text_stream(name, sizes.tokenizer, sizes.tokens),
        lambda sizes: {"tokens": sizes.tokens, "vocabulary": vocabulary(sizes.tokenizer)},
        lambda sizes: text_tools(sizes.tokenizer),
        job=None,
    ),
    "vector": Kind(_vector, lambda sizes: {}, lambda sizes: {}),
    "video": Kind(
        _video,
        lambda sizes: {"frames": sizes.frames, "image_size": sizes.image_size},
        lambda sizes: tool_versions("av"),
        lambda path: (str(path), None, True),
    ),
}
"""Kind, as users call it -> how it is made."""


def parse_modalities(options: Sequence[str]) -> dict[Modality, str]:
    """Read what ``--modality NAME=KIND`` gives.

    Parameters
    ----------
    options
        "NAME=KIND" or "NAME=vector:COLUMN,COLUMN", in stored order.

    Returns
    -------
    Name -> kind, with the columns where they are given.

    Raises
    ------
    PrepError
        Something else, a name twice, less than two, a kind that is not in KINDS, or columns that cannot be features.
    DataError
        A name that cannot be a modality's.

    Examples
    --------
    >>> parse_modalities(["photo=image", "lab=vector:age,bmi"])
    {'photo': 'image', 'lab': 'vector:age,bmi'}
    """
    modalities: dict[Modality, str] = {}
    for option in options:
        name, _, kind = option.partition("=")
        if kind_of(kind) not in KINDS:
            raise PrepError(f"modality {option!r}: must be NAME=KIND with one of the kinds {', '.join(sorted(KINDS))}.")
        _check_columns(option, kind)
        if name in modalities or name in OWN_COLUMNS:
            raise PrepError(f"modality {option!r}: {name!r} is given twice, or no modality's name.")
        modalities[name] = kind
    check_modality_names(list(modalities))
    if len(modalities) < 2:
        raise PrepError(f"modalities {list(modalities)}: there must be two or more.")
    return modalities


def kind_of(kind: str) -> str:
    """Return the kind alone: "vector" of "vector:age,bmi"."""
    return kind.partition(":")[0]


def features_of(kind: str) -> tuple[str, ...]:
    """Return the columns that a kind is made of: ("age", "bmi") of "vector:age,bmi", none of a kind of files."""
    listed = kind.partition(":")[2]
    return tuple(column.strip() for column in listed.split(",")) if listed else ()


def _check_columns(option: str, kind: str) -> None:
    columns = features_of(kind)
    if ":" in kind and (kind_of(kind) != "vector" or not all(columns) or not columns):
        raise PrepError(f"modality {option!r}: only a vector has columns, such as vector:age,bmi.")
    wrong = [column for column in columns if column in OWN_COLUMNS or columns.count(column) > 1]
    if wrong:
        raise PrepError(f"modality {option!r}: {wrong[0]!r} is given twice, or says what the sample is.")


def prepare(
    manifest: Path,
    raw: Path,
    out: Path,
    modalities: Mapping[Modality, str],
    *,
    sizes: Sizes | None = None,
    classes: Sequence[str] | None = None,
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
        Column -> kind, in stored order; :func:`parse_modalities` checks them.
    sizes
        What is stored of each sample; None: the defaults.
    classes
        Labels in index order; None: sorted, as numbers where all are integers.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        There is no such manifest or raw directory.
    PrepError
        A manifest or files that cannot be used, or something else at ``out``.
    """
    sizes = sizes or Sizes()
    for what, path, there in (("manifest", manifest, manifest.is_file()), ("directory", raw, raw.is_dir())):
        if not there:
            raise FileNotFoundError(f"{path}: not found, expected a {what}.")
    used = {kind: KINDS[kind] for kind in sorted({kind_of(kind) for kind in modalities.values()})}
    settings = {
        "modalities": dict(modalities),
        "classes": None if classes is None else list(classes),
        "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        **{name: kind.settings(sizes) for name, kind in used.items()},
    }

    def make_plan() -> Plan:
        needed = [column for name, kind in modalities.items() for column in features_of(kind) or (name,)]
        entries = read_manifest(manifest, list(dict.fromkeys(needed)))
        names = class_names(entries, classes)
        samples = [_plan(raw, entry, modalities, names) for entry in entries]
        tools = tool_versions("numpy")
        for kind in used.values():
            tools |= kind.tools(sizes)
        return Plan(names, _streams(raw, entries, modalities, sizes), samples, (), tools)

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _plan(raw: Path, entry: Entry, modalities: Mapping[Modality, str], classes: Sequence[str]) -> Planned:
    jobs, sources, files = dict[str, Any](), dict[str, str](), list[str]()
    for name, kind in modalities.items():
        columns = features_of(kind)
        if columns:
            cells = read_cells(entry.where, entry.place, [(column, entry.cells.get(column, "")) for column in columns])
            if cells is not None:
                jobs[name], sources[name] = cells, entry.place
        elif name in entry.cells:
            job, cell = KINDS[kind].job, entry.cells[name]
            if job is None:
                jobs[name] = cell
            else:
                file = find_file(raw, entry, name)
                jobs[name] = job(file)
                files.append(str(file))
            sources[name] = entry.place if job is None else cell
    return Planned(entry.id, classes.index(entry.label), entry.group, entry.split, jobs, sources, files)


def _streams(raw: Path, entries: Sequence[Entry], modalities: Mapping[Modality, str], sizes: Sizes) -> list[Stream]:
    return [_stream(raw, entries, name, kind, sizes) for name, kind in modalities.items()]


def _stream(raw: Path, entries: Sequence[Entry], name: Modality, kind: str, sizes: Sizes) -> Stream:
    columns = features_of(kind)
    if columns:
        return vector_stream(name, len(columns), columns)
    cells = [entry.cells[name] for entry in entries if name in entry.cells]
    if not cells:
        raise PrepError(f"column {name!r}: all cells are empty; leave it out.")
    return KINDS[kind].stream(name, sizes, [raw / cell for cell in cells])
