"""Your own data: a table of samples and their files -> prepared directory, for any two or more modalities.

The table (``manifest_table.py``) has the columns ``id``, ``label``, ``split`` (train, val, test), ``group`` (optional:
the person, device or place that a sample comes from; the id if left out) and one column for each modality. Its cells
are paths relative to the raw directory; those of a text modality hold the text itself. An empty cell is a modality
that the sample lacks.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.manifest_table import OWN_COLUMNS, Entry, class_names, find_file, read_manifest
from data_prep.photo import PADDING, PHOTO_SIZE, photo_stream
from data_prep.pipeline import prepare as prepare_plan
from data_prep.plan import Plan, Planned, Stream
from data_prep.rows import Show
from data_prep.series import POINTS, read_series, series_stream
from data_prep.text import DEFAULT_TOKENIZER, TOKENS, text_stream, text_tools, vocabulary
from data_prep.writer import tool_versions
from fedcmi_flwr.dataset import check_modality_names
from fedcmi_flwr.types import Modality

NAME = "manifest"


@dataclass(frozen=True)
class Sizes:
    """What is stored of each sample, for the kinds of modality that the manifest has."""

    image_size: int = PHOTO_SIZE
    """Height and width of images in pixels; the shorter side is padded."""
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
    """Given the modality's files, in the order of the manifest; none for texts."""
    settings: Callable[[Sizes], Mapping[str, Any]]
    """What of the sizes decides the stored values."""
    tools: Callable[[Sizes], Mapping[str, str]]
    """Versions of what decodes it."""
    is_file: bool = True
    """Whether cells are paths."""


def _series(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    """All series have the channels of the first one that can be read."""
    for file in files:
        try:
            return series_stream(name, read_series(file).shape[1], sizes.points)
        except UnreadableFileError as error:
            reason = error
    raise PrepError(f"{name}: none of its {len(files)} files can be read, the last one because: {reason}")


KINDS = {
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
        is_file=False,
    ),
}
"""Kind, as users call it -> how it is made."""


def parse_modalities(options: Sequence[str]) -> dict[Modality, str]:
    """Read what ``--modality NAME=KIND`` gives.

    Parameters
    ----------
    options
        "NAME=KIND", in stored order.

    Returns
    -------
    Name -> kind.

    Raises
    ------
    PrepError
        Something else, a name twice, less than two, or a kind that is not in KINDS.
    DataError
        A name that cannot be a modality's.

    Examples
    --------
    >>> parse_modalities(["photo=image", "caption=text"])
    {'photo': 'image', 'caption': 'text'}
    """
    modalities: dict[Modality, str] = {}
    for option in options:
        name, _, kind = option.partition("=")
        if kind not in KINDS:
            raise PrepError(f"modality {option!r}: must be NAME=KIND with one of the kinds {', '.join(sorted(KINDS))}.")
        if name in modalities or name in OWN_COLUMNS:
            raise PrepError(f"modality {option!r}: {name!r} is given twice, or no modality's name.")
        modalities[name] = kind
    check_modality_names(list(modalities))
    if len(modalities) < 2:
        raise PrepError(f"modalities {list(modalities)}: there must be two or more.")
    return modalities


def prepare(
    manifest: Path,
    raw: Path,
    out: Path,
    modalities: Mapping[Modality, str],
    *,
    sizes: Sizes | None = None,
    classes: Sequence[str] | None = None,
    workers: int = 1,
    max_bad: int = 0,
    show: Show = lambda progress: None,
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
    workers
        Processes that decode.
    max_bad
        How many samples may be left out because one of their files cannot be used; they are listed in
        ``excluded.csv``.
    show
        Called after each block.

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
    used = {kind: KINDS[kind] for kind in sorted(set(modalities.values()))}
    settings = {
        "modalities": dict(modalities),
        "classes": None if classes is None else list(classes),
        "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        **{name: kind.settings(sizes) for name, kind in used.items()},
    }

    def make_plan() -> Plan:
        entries = read_manifest(manifest, list(modalities))
        names = class_names(entries, classes)
        samples = [_plan(raw, entry, modalities, names) for entry in entries]
        tools = tool_versions("numpy")
        for kind in used.values():
            tools |= kind.tools(sizes)
        return Plan(names, _streams(samples, modalities, sizes), samples, (), tools)

    return prepare_plan(out, NAME, settings, make_plan, workers=workers, max_bad=max_bad, show=show)


def _plan(raw: Path, entry: Entry, modalities: Mapping[Modality, str], classes: Sequence[str]) -> Planned:
    jobs, sources = {}, {}
    for name, cell in entry.cells.items():
        is_file = KINDS[modalities[name]].is_file
        jobs[name] = str(find_file(raw, entry, name)) if is_file else cell
        sources[name] = cell if is_file else entry.place
    return Planned(entry.id, classes.index(entry.label), entry.group, entry.split, jobs, sources)


def _streams(samples: Sequence[Planned], modalities: Mapping[Modality, str], sizes: Sizes) -> list[Stream]:
    streams = []
    for name, kind in modalities.items():
        jobs = [sample.jobs[name] for sample in samples if name in sample.jobs]
        if not jobs:
            raise PrepError(f"column {name!r}: all cells are empty; leave the modality out.")
        files = [Path(job) for job in jobs] if KINDS[kind].is_file else []
        streams.append(KINDS[kind].stream(name, sizes, files))
    return streams
