"""CrisisMMD: tweets with photographs from disasters: informative or not, or what help they tell of.

Raw archive: ``data_image/<event>/<date>/<id>_<n>.jpg`` and the split files with agreed labels,
``task_<task>_text_img_agreed_lab_{train,dev,test}.tsv``, beside ``data_image`` or in the folder
of their own archive. The split files are tab-separated without quoting: a quotation mark is part
of its tweet. A sample is one image of a tweet, with the tweet's text; its group is the tweet.
Left out, and listed: rows whose text and image carry different labels, rows with neither, and
tweets that stand in a later split too. A tweet of which nothing is left once it is cleaned has
no text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.errors import PrepError
from data_prep.media.photo import PADDING, PHOTO_SIZE, photo_stream
from data_prep.media.signature import refuse_pointers
from data_prep.media.text import (
    DEFAULT_TOKENIZER,
    TOKENS,
    clean_tweet,
    text_stream,
    text_tools,
    vocabulary,
)
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import (
    Exclusion,
    Plan,
    Planned,
    Stream,
    select_modalities,
    tool_versions,
)
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.finding import any_case
from fedcmi_flwr.types import Modality

NAME = "crisismmd"
MODALITIES: tuple[Modality, ...] = ("image", "text")
LABELS: Mapping[str, Mapping[str, str]] = {
    "informative": {name: name for name in ("not_informative", "informative")},
    "humanitarian": {
        "infrastructure_and_utility_damage": "infrastructure_and_utility_damage",
        "not_humanitarian": "not_humanitarian",
        "other_relevant_information": "other_relevant_information",
        "rescue_volunteering_or_donation_effort": "rescue_volunteering_or_donation_effort",
        "affected_individuals": "affected_individuals",
        "vehicle_damage": "infrastructure_and_utility_damage",
        "injured_or_dead_people": "affected_individuals",
        "missing_or_found_people": "affected_individuals",
    },
}
"""Task -> label in the files -> class that it belongs to, as the field merges the rare ones; in
index order."""
SPLITS = {"train": "train", "val": "dev", "test": "test"}
"""Stored split -> what the raw file is called by."""
SPLIT_FOLDER = "crisismmd_datasplit_agreed_label"
"""Where the split files are when their archive was unpacked beside ``data_image``."""
IMAGES = "data_image"
COLUMNS = (
    "event_name",
    "tweet_id",
    "image_id",
    "tweet_text",
    "image",
    "label",
    "label_text",
    "label_image",
)


@dataclass(frozen=True)
class _Tweet:
    """One row of a split file."""

    split: str
    place: str
    """File and line."""
    tweet_id: str
    image_id: str
    text: str
    """Cleaned."""
    image: str
    """Path within the archive."""
    label: str
    agreed: bool
    """Whether text and image carry the row's label."""


def prepare(
    raw: Path,
    out: Path,
    *,
    task: str = "informative",
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
    task
        One of LABELS.
    tokenizer
        BERT's: a directory with ``vocab.txt`` or ``tokenizer.json``, a name on the hub, or
        "hashed:BUCKETS".
    image_size
        Height and width of the stored images in pixels.
    tokens
        Tokens of a text, [CLS] and [SEP] included.
    keep_overlap
        Whether tweets that stand in several splits are kept in all of them; otherwise a tweet of
        the test split is left out of the others, and one of the dev split out of the train
        split.
    modalities
        What to store, "image", "text" or both; None is both. Text is not looked at where it is
        not stored, and needs no tokenizer then.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and
        who is told.

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
    if task not in LABELS:
        raise PrepError(f"task = {task!r}: must be one of {', '.join(LABELS)}.")

    files = _split_files(raw, task)  # before a tokenizer is looked for, perhaps on the hub
    settings = {"task": task, "modalities": list(names), "keep_overlap": keep_overlap}
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
        read: list[_Tweet] = []
        unusable: list[Exclusion] = []
        for split, path in files.items():
            tweets, faulty = _read_split(path, split, LABELS[task])
            read, unusable = read + tweets, unusable + faulty

        rows, left_out = _without_excluded(read, names, keep_overlap)
        images = {
            row.image: str(any_case(raw.resolve() / row.image)) for row in rows if "image" in names
        }
        refuse_pointers(map(Path, images.values()), execution.max_bad)
        classes = tuple(dict.fromkeys(LABELS[task].values()))

        return Plan(
            classes,
            streams,
            [_plan(row, names, classes, images) for row in rows],
            unusable + left_out,
            tools,
        )

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _split_files(raw: Path, task: str) -> dict[str, Path]:
    """Return the file of each split; FileNotFoundError where a part of the archive is missing."""
    if not (raw / IMAGES).is_dir():
        raise FileNotFoundError(
            f"{raw / IMAGES}: not found, expected the photographs; give the directory above it."
        )
    return {split: _split_file(raw, task, name) for split, name in SPLITS.items()}


def _split_file(raw: Path, task: str, name: str) -> Path:
    file = f"task_{task}_text_img_agreed_lab_{name}.tsv"
    for path in (raw / file, raw / SPLIT_FOLDER / file):
        if path.is_file():
            return path

    raise FileNotFoundError(
        f"{raw / file}: not found, nor in {SPLIT_FOLDER}; unpack the split files with agreed "
        "labels there."
    )


def _read_split(
    path: Path, split: str, labels: Mapping[str, str]
) -> tuple[list[_Tweet], list[Exclusion]]:
    """Read a file. Lines end with a line feed only: tweets hold characters that Python splits at.

    A line that cannot be used is left out and listed; it stops nothing.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PrepError(f"{path}: not UTF-8 text ({error}); fetch the file again.") from error

    cells = [line.removesuffix("\r").split("\t") for line in lines]
    header, rows = cells[0], cells[1:]
    missing = [column for column in COLUMNS if column not in header]
    if len(rows) and missing:
        raise PrepError(
            f"{path}: column {missing[0]!r} is missing, found {header}; fetch the agreed-label "
            "files."
        )
    if not any(row != [""] for row in rows):
        raise PrepError(f"{path}: holds no rows; fetch the file again.")

    tweets, unusable = [], []
    for number, row in enumerate(rows, start=2):
        if row == [""]:
            continue

        named = {column: cell.strip() for column, cell in zip(header, row, strict=False)}
        place = f"{path.name}:{number}"
        reason = (
            f"{len(row)} cells, the header has {len(header)}"
            if len(row) != len(header)
            else _fault(named, labels)
        )
        if reason:
            unusable.append(Exclusion(named.get("image_id", ""), split, place, reason))
        else:
            tweets.append(_tweet(named, place, split, labels))

    return tweets, unusable


def _fault(cells: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """Return what is wrong with a line, or nothing."""
    for column in ("tweet_id", "image_id"):
        if not cells[column]:
            return f"column {column!r} is empty"

    for column in ("label", "label_text", "label_image"):
        if cells[column] not in labels:
            return f"column {column!r}: {cells[column]!r} is not one of {', '.join(labels)}"

    image = PurePosixPath(cells["image"])
    if image.is_absolute() or ".." in image.parts:
        return f"column 'image': {cells['image']!r} leaves the archive"

    return ""


def _tweet(cells: Mapping[str, str], place: str, split: str, labels: Mapping[str, str]) -> _Tweet:
    found = [labels[cells[column]] for column in ("label", "label_text", "label_image")]
    return _Tweet(
        split,
        place,
        cells["tweet_id"],
        cells["image_id"],
        clean_tweet(cells["tweet_text"]),
        cells["image"],
        found[0],
        len(set(found)) == 1,
    )


def _without_excluded(
    rows: Sequence[_Tweet], names: Sequence[Modality], keep_overlap: bool
) -> tuple[list[_Tweet], list[Exclusion]]:
    """Apply the data set's rules.

    A tweet stays in the last of its splits, in the order train, val, test.
    """
    reasons = {row.place: _unusable(row, names) for row in rows}
    # Rows come in the order of the splits
    last = {row.tweet_id: row.split for row in rows if not reasons[row.place]}
    for row in rows:
        if not reasons[row.place] and last[row.tweet_id] != row.split and not keep_overlap:
            reasons[row.place] = f"its tweet is in the {last[row.tweet_id]} split too"

    excluded = [
        Exclusion(row.image_id, row.split, row.place, reasons[row.place])
        for row in rows
        if reasons[row.place]
    ]

    return [row for row in rows if not reasons[row.place]], excluded


def _unusable(row: _Tweet, names: Sequence[Modality]) -> str:
    """Return why a row cannot be used, or nothing."""
    if not row.agreed:
        return "text and image are labelled differently"
    return "" if _present(row, names) else f"has no {' and no '.join(names)}"


def _present(row: _Tweet, names: Sequence[Modality]) -> list[Modality]:
    """Return what a row has of the modalities.

    An empty cell, or no words, is a missing modality.
    """
    cells = {"image": row.image, "text": row.text}
    return [name for name in names if cells[name]]


def _plan(
    row: _Tweet, names: Sequence[Modality], classes: Sequence[str], images: Mapping[str, str]
) -> Planned:
    jobs, sources = dict[Modality, str](), dict[Modality, str]()
    for name in _present(row, names):
        jobs[name] = images[row.image] if name == "image" else row.text
        sources[name] = row.image if name == "image" else row.place

    files = [jobs["image"]] if "image" in jobs else []

    return Planned(
        row.image_id, classes.index(row.label), row.tweet_id, row.split, jobs, sources, files
    )
