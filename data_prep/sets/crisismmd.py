"""CrisisMMD, task 1: tweets with photographs from disasters, informative or not.

Raw archive: ``data_image/<event>/<date>/<id>_<n>.jpg`` and the agreed-label split files
``task_informative_text_img_{train,dev,test}.tsv``, beside ``data_image`` or in the folder of their own archive. The
split files are tab-separated without quoting: a quotation mark is part of its tweet. A sample is one image of a tweet,
with the tweet's text; its group is the tweet. Left out, and listed: rows whose text and image carry different labels,
rows with neither, and tweets that stand in a later split too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.errors import PrepError
from data_prep.media.photo import PADDING, PHOTO_SIZE, photo_stream
from data_prep.media.text import DEFAULT_TOKENIZER, TOKENS, clean_tweet, text_stream, text_tools, vocabulary
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion, Plan, Planned, Stream, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from fedcmi_flwr.types import Modality

NAME = "crisismmd"
MODALITIES: tuple[Modality, ...] = ("image", "text")
CLASSES = ("not_informative", "informative")
SPLITS = {"train": "train", "val": "dev", "test": "test"}
"""Stored split -> what the raw file is called by."""
SPLIT_FOLDER = "crisismmd_datasplit_agreed_label"
"""Where the split files are when their archive was unpacked beside ``data_image``."""
IMAGES = "data_image"
COLUMNS = ("event_name", "tweet_id", "image_id", "tweet_text", "image", "label", "label_text", "label_image")


@dataclass(frozen=True)
class _Tweet:
    """One row of a split file."""

    split: str
    place: str
    """File and line."""
    tweet_id: str
    image_id: str
    text: str
    image: str
    """Path within the archive."""
    label: str
    agreed: bool
    """Whether text and image carry the row's label."""


def prepare(
    raw: Path,
    out: Path,
    *,
    tokenizer: str = DEFAULT_TOKENIZER,
    image_size: int = PHOTO_SIZE,
    tokens: int = TOKENS,
    keep_overlap: bool = False,
    modalities: Sequence[Modality] | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare CrisisMMD; the same settings and raw data give the same bytes.

    Parameters
    ----------
    raw
        The directory that holds ``data_image`` and the split files.
    out
        The prepared directory to make.
    tokenizer
        BERT's: a directory with ``vocab.txt`` or ``tokenizer.json``, or a name on the hub.
    image_size
        Height and width of the stored images in pixels.
    tokens
        Tokens of a text, [CLS] and [SEP] included.
    keep_overlap
        Whether tweets that stand in several splits are kept in all of them; otherwise a tweet of the test split is
        left out of the others, and one of the dev split out of the train split.
    modalities
        What to store, "image", "text" or both; None is both. Text is not looked at where it is not stored, and needs
        no tokenizer then.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        A part of the raw archive is missing.
    PrepError
        A setting out of range, raw data that cannot be used, or something else at ``out``.
    """
    names = select_modalities(MODALITIES, modalities)
    settings = {"modalities": list(names), "keep_overlap": keep_overlap}
    tools = tool_versions("numpy", "pillow")
    streams: list[Stream] = []
    if "image" in names:
        streams.append(photo_stream("image", image_size))
        settings |= {"image_size": image_size, "padding": list(PADDING)}
    if "text" in names:
        streams.append(text_stream("text", tokenizer, tokens, tweets=True))
        settings |= {"tokens": tokens, "vocabulary": vocabulary(tokenizer)}
        tools |= text_tools(tokenizer)

    def make_plan() -> Plan:
        rows, excluded = _without_excluded(_read(raw), names, keep_overlap)
        return Plan(CLASSES, streams, [_plan(raw, row, names) for row in rows], excluded, tools)

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _read(raw: Path) -> list[_Tweet]:
    if not (raw / IMAGES).is_dir():
        raise FileNotFoundError(f"{raw / IMAGES}: not found, expected the photographs; give the directory above it.")
    return [row for split, name in SPLITS.items() for row in _read_split(_split_file(raw, name), split)]


def _split_file(raw: Path, name: str) -> Path:
    file = f"task_informative_text_img_{name}.tsv"
    for path in (raw / file, raw / SPLIT_FOLDER / file):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{raw / file}: not found, nor in {SPLIT_FOLDER}; fetch the split files with agreed labels."
    )


def _read_split(path: Path, split: str) -> Iterator[_Tweet]:
    """Yield the rows of a file. Lines end with a line feed only: tweets hold characters that Python splits at."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PrepError(f"{path}: not UTF-8 text ({error}); fetch the file again.") from error
    cells = [line.removesuffix("\r").split("\t") for line in lines]
    header, rows = cells[0], cells[1:]
    missing = [column for column in COLUMNS if column not in header]
    if len(rows) and missing:
        raise PrepError(f"{path}: column {missing[0]!r} is missing, found {header}; fetch the agreed-label files.")
    if not any(row != [""] for row in rows):
        raise PrepError(f"{path}: holds no rows; fetch the file again.")
    for number, row in enumerate(rows, start=2):
        if row == [""]:
            continue
        if len(row) != len(header):
            raise PrepError(f"{path}: line {number} has {len(row)} cells, its header {len(header)}; fetch it again.")
        yield _tweet(path, number, dict(zip(header, row, strict=True)), split)


def _tweet(path: Path, number: int, cells: dict[str, str], split: str) -> _Tweet:
    cells = {column: cells[column].strip() for column in COLUMNS}
    where = f"{path}: line {number}"
    for column in ("tweet_id", "image_id"):
        if not cells[column]:
            raise PrepError(f"{where}, column {column!r}: empty; fetch the file again.")
    for column in ("label", "label_text", "label_image"):
        if cells[column] not in CLASSES:
            raise PrepError(f"{where}, column {column!r}: {cells[column]!r} is not one of {', '.join(CLASSES)}.")
    image = PurePosixPath(cells["image"])
    if image.is_absolute() or ".." in image.parts:
        raise PrepError(f"{where}, column 'image': {cells['image']!r} leaves the archive.")
    return _Tweet(
        split,
        f"{path.name}:{number}",
        cells["tweet_id"],
        cells["image_id"],
        cells["tweet_text"],
        cells["image"],
        cells["label"],
        cells["label"] == cells["label_text"] == cells["label_image"],
    )


def _without_excluded(
    rows: Sequence[_Tweet], names: Sequence[Modality], keep_overlap: bool
) -> tuple[list[_Tweet], list[Exclusion]]:
    """Apply the data set's rules; a tweet stays in the last of its splits, in the order train, val, test."""
    reasons = {row.place: _unusable(row, names) for row in rows}
    last = {row.tweet_id: row.split for row in rows if not reasons[row.place]}  # rows come in the order of the splits
    for row in rows:
        if not reasons[row.place] and last[row.tweet_id] != row.split and not keep_overlap:
            reasons[row.place] = f"its tweet is in the {last[row.tweet_id]} split too"
    excluded = [Exclusion(row.image_id, row.split, row.place, reasons[row.place]) for row in rows if reasons[row.place]]
    return [row for row in rows if not reasons[row.place]], excluded


def _unusable(row: _Tweet, names: Sequence[Modality]) -> str:
    """Return why a row cannot be used, or nothing."""
    if not row.agreed:
        return "text and image are labelled differently"
    return "" if _present(row, names) else f"has no {' and no '.join(names)}"


def _present(row: _Tweet, names: Sequence[Modality]) -> list[Modality]:
    """Return what a row has of the modalities; an empty cell is a missing modality."""
    cells = {"image": row.image, "text": row.text}
    return [name for name in names if cells[name]]


def _plan(raw: Path, row: _Tweet, names: Sequence[Modality]) -> Planned:
    jobs = {"image": str(raw.resolve() / row.image), "text": clean_tweet(row.text)}
    sources = {"image": row.image, "text": row.place}
    has = _present(row, names)
    return Planned(
        row.image_id,
        CLASSES.index(row.label),
        row.tweet_id,
        row.split,
        {name: jobs[name] for name in has},
        {name: sources[name] for name in has},
    )
