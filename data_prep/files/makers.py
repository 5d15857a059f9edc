"""From one file to one stored sample.

The preparations' own code, as a recipe of ``recipes.json`` says.

Inference makes its samples here. Nothing is added: the noise that the digit tasks are prepared
with belongs to the task, not to the file.
"""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.files.content import medium_by_content
from data_prep.media.segment import Segment
from data_prep.pipeline.workers import one_torch_thread
from fedcmi_flwr.data.schema import ModalitySpec, Recipe

MEDIA = {
    "sound": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
              ".w64", ".rf64", ".m4a", ".m4b", ".aac", ".ac3", ".mka", ".wma", ".amr", ".alac", ".tta", ".wv"),
    "image": (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".ppm",
              ".pgm", ".pnm", ".tga", ".avif"),
    "video": (".mp4", ".m4v", ".mov", ".flv", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv",
              ".asf", ".3gp", ".3g2", ".ogv", ".vob", ".h264", ".mxf"),
    "text": (".txt",),
    "numbers": (".csv", ".npy"),
}  # fmt: skip
"""What a file holds -> how its name ends."""

_PART = re.compile(r"(?P<path>.+)#(?P<start>[0-9.]+)-(?P<end>[0-9.]+)s")


@dataclass(frozen=True)
class Source:
    """A file, or a part of one."""

    path: Path
    segment: Segment | None = None
    """None: the whole file."""

    @staticmethod
    def parse(text: str) -> "Source":
        """Read a file's name as a user or a sample table writes it.

        Parameters
        ----------
        text
            "FILE", or "FILE#START-ENDs" for a segment in seconds.

        Returns
        -------
        The file, which need not be there.

        Examples
        --------
        >>> Source.parse("AVE/x.mp4#2-6.5s").segment, Source.parse("AVE/x.mp4").segment
        ((2.0, 6.5), None)
        """
        found = _PART.fullmatch(text)
        if found is None or Path(text).exists():
            return Source(Path(text))

        try:
            segment = float(found["start"]), float(found["end"])
        except ValueError:
            return Source(Path(text))

        return Source(Path(found["path"]), segment)

    @property
    def medium(self) -> str | None:
        """One of MEDIA, by the file's ending, or by its content where that says nothing.

        None: none of them.
        """
        ending = self.path.suffix.lower()
        by_ending = next((medium for medium, endings in MEDIA.items() if ending in endings), None)
        return by_ending or medium_by_content(self.path)


@dataclass(frozen=True)
class Maker:
    """What makes a sample."""

    media: tuple[str, ...]
    """What it can be made of; the first is what it is usually made of."""
    make: Callable[..., Any]
    """Takes a ``Source`` and the recipe's other entries. Decoders are imported where they are
    needed, since starting is most of what one prediction costs."""


def _log_mel(
    source: Source, *, rate_hz: int, samples: int, bands: int, window: int, hop: int, floor: float
) -> NDArray[Any]:
    from data_prep.media.audio import fit_clip, log_mel, read_sound
    from data_prep.media.resampling import resample

    waveform, rate = read_sound(source.path, source.segment, seconds=samples / rate_hz)
    clip = fit_clip(source.path, resample(waveform, rate, rate_hz), samples)

    return log_mel(clip.unsqueeze(0), rate_hz, bands, window, hop, floor).squeeze(0).numpy()


def _waveform(
    source: Source, *, rate_hz: int, seconds: float, stream: int | None = None
) -> NDArray[Any]:
    from data_prep.media.waveform import decode_waveform

    return decode_waveform(source.path, source.segment, rate_hz, seconds, stream)


def _contour(source: Source, *, rate_hz: int, samples: int, hop: int, floor: float) -> NDArray[Any]:
    from data_prep.media.audio import fit_clip, read_sound
    from data_prep.media.contour import contour
    from data_prep.media.resampling import resample

    waveform, rate = read_sound(source.path, source.segment, seconds=samples / rate_hz)
    clip = fit_clip(source.path, resample(waveform, rate, rate_hz), samples)

    return contour(clip.unsqueeze(0), rate_hz, hop, floor).squeeze(0).numpy()


def _log_spectrogram(source: Source, *, seconds: float, stream: int | None = None) -> NDArray[Any]:
    from data_prep.media.audio import log_spectrogram, read_sound

    waveform, rate = read_sound(source.path, source.segment, seconds=seconds, stream=stream)
    with one_torch_thread():
        return log_spectrogram(source.path, waveform, rate, seconds)


def _video_frames(
    source: Source, *, count: int, size: int, stream: int | None = None
) -> NDArray[Any]:
    from data_prep.media.video import frames_at_even_times

    return frames_at_even_times(source.path, count, size, source.segment, stream=stream)


def _grey_image(source: Source, *, size: int) -> NDArray[Any]:
    from data_prep.media.grey import fit_square, read_grey

    return fit_square(read_grey(source.path), size).unsqueeze(0).numpy()


def _photo(source: Source, *, size: int) -> NDArray[Any]:
    from data_prep.media.photo import read_photo

    return read_photo(source.path, size)


def _tokens(source: Source, *, tokens: int, tweets: bool, tokenizer: str) -> NDArray[Any]:
    from data_prep.media.text import clean_tweet, cut_text

    try:
        text = source.path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UnreadableFileError(
            source.path, f"not UTF-8 text ({error}); save it again."
        ) from error

    return cut_text(clean_tweet(text) if tweets else text, tokenizer, tokens)


def _series(
    source: Source, *, channels: int, points: int, header: bool | None = None
) -> NDArray[Any]:
    from data_prep.media.series import decode_series

    return decode_series(str(source.path), channels, points, header)


def _vector(
    source: Source, *, features: int, columns: list[str] | None, header: bool | None = None
) -> NDArray[Any]:
    from data_prep.media.vector import decode_vector

    return decode_vector(str(source.path), features, columns, header)


def _table(
    source: Source, *, columns: list[str], fill: dict[str, float], categories: dict[str, list[str]]
) -> NDArray[Any]:
    from data_prep.media.table import Table, decode_row

    return decode_row(
        source.path, Table.of({"columns": columns, "fill": fill, "categories": categories})
    )


def _array(source: Source, *, shape: list[int], dtype: str) -> NDArray[Any]:
    from data_prep.media.numbers import read_npy
    from data_prep.sets.npz import channels_first

    try:
        sample = read_npy(source.path)
        found = f"{sample.dtype} {list(sample.shape)}"
    except (ValueError, EOFError, AttributeError) as error:
        raise UnreadableFileError(
            source.path, f"not an NPY file ({error}); write it again."
        ) from error

    if list(sample.shape) != shape or sample.dtype.name != dtype:
        raise UnreadableFileError(source.path, f"holds {found}, expected {dtype} {shape}.")

    return channels_first(sample)


MAKERS = {
    "log-mel": Maker(("sound", "video"), _log_mel),
    "waveform": Maker(("sound", "video"), _waveform),
    "contour": Maker(("sound", "video"), _contour),
    "log-spectrogram": Maker(("sound", "video"), _log_spectrogram),
    "video-frames": Maker(("video",), _video_frames),
    "grey-image": Maker(("image",), _grey_image),
    "photo": Maker(("image",), _photo),
    "tokens": Maker(("text",), _tokens),
    "series": Maker(("numbers",), _series),
    "vector": Maker(("numbers",), _vector),
    "table": Maker(("numbers",), _table),
    "array": Maker(("numbers",), _array),
}
"""A recipe's "maker" -> what makes its samples."""


FOR_MATCHING = {"maker", "of"}
"""Entries of a recipe that are no arguments of its maker; "of" names the modality that it shares
its files with."""


def maker_of(modality: str, recipe: Recipe) -> Maker:
    """Return what makes a modality's samples.

    Parameters
    ----------
    modality
        Whose.
    recipe
        Its entry in ``recipes.json``.

    Returns
    -------
    One of MAKERS.

    Raises
    ------
    PrepError
        A maker or arguments that this release does not know.
    """
    arguments = recipe.keys() - FOR_MATCHING
    maker = MAKERS.get(recipe.get("maker", ""))
    needed, known = (frozenset[str](), frozenset[str]()) if maker is None else _arguments(maker)
    if maker is None or not needed <= arguments <= known:
        raise PrepError(
            f"recipe of {modality!r}: maker {recipe.get('maker')!r} with {sorted(arguments)} is "
            f"none of this release's ({', '.join(sorted(MAKERS))}); use the release that prepared "
            "the data."
        )

    return maker


@functools.lru_cache
def _arguments(maker: Maker) -> tuple[frozenset[str], frozenset[str]]:
    """Return the arguments that a recipe must have, and all that it may have."""
    taken = {
        name: each.default
        for name, each in inspect.signature(maker.make).parameters.items()
        if name != "source"
    }
    needed = frozenset(
        name for name, default in taken.items() if default is inspect.Parameter.empty
    )
    return needed, frozenset(taken)


def make_sample(source: Source, modality: ModalitySpec, recipe: Recipe) -> NDArray[Any]:
    """Make what the preparation stores of a file, without noise.

    Parameters
    ----------
    source
        The file.
    modality
        What is stored.
    recipe
        Its entry in ``recipes.json``.

    Returns
    -------
    [*shape] in the stored dtype, not normalised.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    UnreadableFileError
        A file that cannot be used.
    PrepError
        A recipe that does not make such samples.
    """
    if not source.path.is_file():
        raise FileNotFoundError(
            f"{source.path}: no such file; it was to become modality {modality.name!r}."
        )

    arguments = {key: value for key, value in recipe.items() if key not in FOR_MATCHING}
    array = np.asarray(maker_of(modality.name, recipe).make(source, **arguments))
    if array.shape != modality.shape:
        raise PrepError(
            f"{source.path}: became {list(array.shape)}, but modality {modality.name!r} is "
            f"{list(modality.shape)}; the recipe is not that of the data."
        )

    with np.errstate(over="ignore"):  # infinities are found below
        stored = array.astype(modality.dtype)

    if not np.isfinite(stored).all():
        raise UnreadableFileError(source.path, f"not finite as {modality.dtype}; look at the file.")

    return stored
