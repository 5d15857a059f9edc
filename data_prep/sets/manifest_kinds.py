"""The kinds of modality that a manifest may have, and how each is made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.clips import audio_stream, visual_stream
from data_prep.media.photo import PADDING, PHOTO_SIZE, photo_stream
from data_prep.media.series import POINTS, read_series, series_stream
from data_prep.media.table import Table, table_stream
from data_prep.media.text import (
    DEFAULT_TOKENIZER,
    TOKENS,
    described_text_stream,
    text_stream,
    vocabulary,
)
from data_prep.media.vector import read_vector, vector_stream
from data_prep.media.waveform import RATE_HZ, waveform_stream
from data_prep.pipeline.plan import Stream
from data_prep.sets.manifest_table import OWN_COLUMNS
from fedcmi_flwr.data.prepared import check_modality_names
from fedcmi_flwr.data.schema import Recipe
from fedcmi_flwr.types import Modality


@dataclass(frozen=True)
class Sizes:
    """What is stored of each sample, for the kinds of modality that the manifest has."""

    image_size: int = PHOTO_SIZE
    """Height and width of images and of videos' frames in pixels; images are padded to a square,
    frames stretched."""
    seconds: float = 3.0
    """Of sound, repeated to this length or cut to it."""
    frames: int = 3
    """Of a video, at the centres of equal parts of it."""
    tokens: int = TOKENS
    """Tokens of a text, [CLS] and [SEP] included."""
    tokenizer: str = DEFAULT_TOKENIZER
    """BERT's: a directory with ``vocab.txt`` or ``tokenizer.json``, a name on the hub;
    "auto:NAME_OR_DIR", that of any Hugging Face model; or "hashed:BUCKETS"."""
    points: int = POINTS
    """Of a numeric series, resampled linearly from the whole of it."""
    header: bool | None = None
    """Whether the first row of series and vectors in CSV has names; None: where none of its
    cells is a number."""
    streams: Mapping[Modality, int] = field(default_factory=dict)
    """Number of the stream, from 1, of files that have several; else the one flagged default, or
    the first."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of columns of tables, as :func:`data_prep.sets.table_columns.parse_categories` reads them;
    else the data's."""


@dataclass(frozen=True)
class Kind:
    """How modalities of one kind are made."""

    stream: Callable[[Modality, Sizes, Sequence[Path]], Stream]
    """Given the modality's files in the order of the manifest, if it has files."""
    again: Callable[[Modality, Recipe], Stream]
    """The same stream, by the recipe of one that was made before."""
    maker: str
    """In its recipes."""
    entries: Mapping[str, str]
    """Field of Sizes -> entry of the recipe that holds it."""
    settings: Callable[[Sizes], Mapping[str, Any]]
    """What of the sizes decides the stored values."""
    packages: Sequence[str] = ()
    """That decode it."""
    job: Callable[[Path], Any] | None = str
    """What a worker is given to make a file's array of; None: cells are no paths, and given as
    they are."""
    measure: Callable[[Path, bool | None], int] | None = None
    """What a file says of the first axis of its samples: channels, features; None: that is the
    same for all files."""


def _first_axis(
    name: Modality, sizes: Sizes, files: Sequence[Path], measure: Callable[[Path, bool | None], int]
) -> int:
    """Return what the first file that can be read says: all of them must agree with it."""
    if not files:
        raise PrepError(
            f"column {name!r}: all cells are empty, and nothing else says how large a sample is."
        )

    for file in files:
        try:
            return measure(file, sizes.header)
        except UnreadableFileError as error:
            reason = error

    raise PrepError(
        f"{name}: none of its {len(files)} files can be read, the last one because: {reason}"
    )


def _channels(file: Path, header: bool | None) -> int:
    return int(read_series(file, header).shape[1])


def _features(file: Path, header: bool | None) -> int:
    return len(read_vector(file, header=header))


def _series(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    return series_stream(
        name, _first_axis(name, sizes, files, _channels), sizes.points, sizes.header
    )


def _vector(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    return vector_stream(name, _first_axis(name, sizes, files, _features), header=sizes.header)


def _table(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    raise PrepError(f"modality {name!r}: a table is made of columns, such as table:age,sex.")


def _header(sizes: Sizes) -> dict[str, bool]:
    """Return what is stated of headers, for the settings of a preparation."""
    return {} if sizes.header is None else {"header": sizes.header}


def _audio(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    if not 0.1 <= sizes.seconds < math.inf:
        raise PrepError(f"seconds = {sizes.seconds}: must be 0.1 or more.")
    return audio_stream(name, sizes.seconds, sizes.streams.get(name))


def _video(name: Modality, sizes: Sizes, files: Sequence[Path]) -> Stream:
    if sizes.frames < 1:
        raise PrepError(f"frames = {sizes.frames}: must be 1 or more.")
    return visual_stream(name, sizes.frames, sizes.image_size, sizes.streams.get(name))


def _clip(path: Path) -> tuple[str, None, bool]:
    return str(path), None, True


KINDS = {
    "audio": Kind(
        _audio,
        lambda name, recipe: audio_stream(name, recipe["seconds"], recipe.get("stream")),
        "log-spectrogram",
        {"seconds": "seconds"},
        lambda sizes: {"seconds": sizes.seconds},
        ("torch", "torchaudio", "soundfile", "av"),
        _clip,
    ),
    "image": Kind(
        lambda name, sizes, files: photo_stream(name, sizes.image_size),
        lambda name, recipe: photo_stream(name, recipe["size"]),
        "photo",
        {"image_size": "size"},
        lambda sizes: {"image_size": sizes.image_size, "padding": list(PADDING)},
        ("pillow",),
    ),
    "series": Kind(
        _series,
        lambda name, recipe: series_stream(
            name, recipe["channels"], recipe["points"], recipe.get("header")
        ),
        "series",
        {"points": "points", "header": "header"},
        lambda sizes: {"points": sizes.points} | _header(sizes),
        measure=_channels,
    ),
    "table": Kind(
        _table,
        lambda name, recipe: table_stream(name, Table.of(recipe)),
        "table",
        {},
        lambda sizes: {
            "categories": {column: list(names) for column, names in sizes.categories.items()}
        },
    ),
    "text": Kind(
        lambda name, sizes, files: text_stream(name, sizes.tokenizer, sizes.tokens),
        lambda name, recipe: described_text_stream(name, recipe["tokenizer"], recipe["tokens"]),
        "tokens",
        {"tokens": "tokens", "tokenizer": "tokenizer"},
        lambda sizes: {"tokens": sizes.tokens, "vocabulary": vocabulary(sizes.tokenizer)},
        ("transformers", "tokenizers"),
        job=None,
    ),
    "waveform": Kind(
        lambda name, sizes, files: waveform_stream(name, sizes.seconds, sizes.streams.get(name)),
        lambda name, recipe: waveform_stream(
            name, recipe["seconds"], recipe.get("stream"), recipe["rate_hz"]
        ),
        "waveform",
        {"seconds": "seconds"},
        lambda sizes: {"seconds": sizes.seconds, "rate_hz": RATE_HZ},
        ("torch", "torchaudio", "soundfile", "av"),
        _clip,
    ),
    "vector": Kind(
        _vector,
        lambda name, recipe: vector_stream(
            name, recipe["features"], recipe["columns"], recipe.get("header")
        ),
        "vector",
        {"header": "header"},
        _header,
        measure=_features,
    ),
    "video": Kind(
        _video,
        lambda name, recipe: visual_stream(
            name, recipe["count"], recipe["size"], recipe.get("stream")
        ),
        "video-frames",
        {"frames": "count", "image_size": "size"},
        lambda sizes: {"frames": sizes.frames, "image_size": sizes.image_size},
        ("av",),
        _clip,
    ),
}
"""Kind, as users call it -> how it is made."""
OF_COLUMNS = ("table", "vector")
"""Kinds that several columns of a manifest make."""


def parse_modalities(options: Sequence[str], fewest: int = 2) -> dict[Modality, str]:
    """Read what ``--modality NAME=KIND`` gives.

    Parameters
    ----------
    options
        "NAME=KIND", "NAME=vector:COLUMN,COLUMN" or "NAME=table:COLUMN,COLUMN", in stored order.
    fewest
        How many there must be.

    Returns
    -------
    Name -> kind, with the columns where they are given.

    Raises
    ------
    PrepError
        Something else, a name twice, too few, a kind that is not in KINDS, or columns that
        cannot be features.
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
            raise PrepError(
                f"modality {option!r}: must be NAME=KIND with one of the kinds "
                f"{', '.join(sorted(KINDS))}."
            )

        _check_columns(option, kind)
        if name in modalities or name in OWN_COLUMNS:
            raise PrepError(f"modality {option!r}: {name!r} is given twice, or no modality's name.")

        modalities[name] = kind

    check_modality_names(list(modalities))
    if len(modalities) < fewest:
        raise PrepError(
            f"modalities {list(modalities)}: there must be two or more, unless they are --for "
            "device or server."
        )

    return modalities


def parse_streams(
    options: Sequence[str], modalities: Mapping[Modality, str]
) -> dict[Modality, int]:
    """Read what ``--stream NAME=NUMBER`` gives.

    Parameters
    ----------
    options
        "voice=2": of each file of the modality ``voice`` the second sound stream.
    modalities
        From :func:`parse_modalities`.

    Returns
    -------
    Name -> number, from 1.

    Raises
    ------
    PrepError
        Something else, or a modality that is neither sound nor video.
    """
    found: dict[Modality, int] = {}
    for option in options:
        name, _, number = option.partition("=")
        if not number.isdecimal() or int(number) < 1:
            raise PrepError(f"stream {option!r}: must be NAME=NUMBER, with a number from 1 on.")
        if modalities.get(name) not in ("audio", "video", "waveform"):
            raise PrepError(
                f"stream {option!r}: {name!r} is no modality of sound or video, of "
                f"{dict(modalities)}."
            )

        found[name] = int(number)

    return found


def kind_of(kind: str) -> str:
    """Return the kind alone: "vector" of "vector:age,bmi"."""
    return kind.partition(":")[0]


def features_of(kind: str) -> tuple[str, ...]:
    """Return the columns that a kind is made of.

    ("age", "bmi") of "vector:age,bmi", none of a kind of files.
    """
    listed = kind.partition(":")[2]
    return tuple(column.strip() for column in listed.split(",")) if listed else ()


def columns_of(modalities: Mapping[Modality, str]) -> list[str]:
    """Return the columns of a manifest that modalities need, each once."""
    return list(
        dict.fromkeys(
            column for name, kind in modalities.items() for column in features_of(kind) or (name,)
        )
    )


def _check_columns(option: str, kind: str) -> None:
    columns = features_of(kind)
    if ":" in kind and (kind_of(kind) not in OF_COLUMNS or not all(columns) or not columns):
        raise PrepError(
            f"modality {option!r}: only a vector or a table has columns, such as vector:age,bmi."
        )
    if kind == "table":
        raise PrepError(f"modality {option!r}: a table is made of columns, such as table:age,sex.")

    wrong = [column for column in columns if column in OWN_COLUMNS or columns.count(column) > 1]
    if wrong:
        raise PrepError(
            f"modality {option!r}: {wrong[0]!r} is given twice, or says what the sample is."
        )
