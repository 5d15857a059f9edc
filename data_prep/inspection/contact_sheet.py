"""A picture of a prepared directory: some samples of each class as they are stored."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from data_prep.media.text import decode_text
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import DatasetSpec, read_spec
from fedcmi_flwr.machine.atomic_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES = 2
"""Of each class."""
CLASSES = 40
"""Shown at most, from the first one."""
FRAMES = 3
"""Shown of a clip, evenly spread."""
CELL_INCHES = (2.4, 1.7)
"""Width and height of one modality of one sample."""


def write_contact_sheet(directory: Path, path: Path) -> Path:
    """Draw samples of the train split: a row for each class, its samples beside each other.

    Images and frames are shown as stored, spectrograms with low frequencies below, series as
    lines, tokens as words where their tokenizer is there and as their number elsewhere. One
    sample of a class is complete and the other lacks a modality, if there are such.

    Parameters
    ----------
    directory
        Any prepared directory.
    path
        The PNG file to write.

    Returns
    -------
    ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spec = read_spec(directory)
    samples = load_split(directory, "train" if "train" in spec.splits else next(iter(spec.splits)))
    classes, columns = spec.classes[:CLASSES], SAMPLES * len(spec.modalities)
    width, height = CELL_INCHES
    figure = Figure(figsize=(width * columns, height * len(classes) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(classes), columns, squeeze=False)
    for label, row in enumerate(axes):
        chosen = choose_samples(samples, label)
        for number, axis in enumerate(row):
            position, column = divmod(number, len(spec.modalities))
            axis.set_xticks([])
            axis.set_yticks([])
            if label == 0:
                axis.set_title(spec.modalities[column].name)

            if position < len(chosen):
                _draw(axis, spec, samples, chosen[position], column)
            else:
                axis.set_axis_off()

        row[0].set_ylabel(textwrap.fill(spec.classes[label], 16))

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png", metadata={"Software": None})

    return path


def choose_samples(samples: Samples, label: int) -> list[int]:
    """Return rows of a class.

    The first complete sample, the first incomplete one, and the next ones if one is missing.

    Parameters
    ----------
    samples
        Of one split.
    label
        Index of the class.

    Returns
    -------
    SAMPLES rows, fewer where the class has fewer; ascending.
    """
    rows = np.flatnonzero(samples.labels == label)
    complete = samples.has[rows].all(axis=1)
    ordered = [*rows[complete][:1], *rows[~complete][:1], *rows[complete][1:], *rows[~complete][1:]]

    return sorted(int(row) for row in ordered[:SAMPLES])


def _draw(axis: "Axes", spec: DatasetSpec, samples: Samples, row: int, column: int) -> None:
    modality = spec.modalities[column]
    if not samples.has[row, column]:
        axis.text(
            0.5, 0.5, "missing", ha="center", va="center", color="tab:red", transform=axis.transAxes
        )
        return

    _DRAWN[modality.kind](axis, np.asarray(samples.arrays[modality.name][row]), spec)


def _draw_image(axis: "Axes", image: NDArray[Any], spec: DatasetSpec) -> None:
    """Draw [channels, height, width] with its own darkest and lightest value, or 0 to 255
    as it is.
    """
    picture = image if len(image) == 3 else image[:1]
    if picture.dtype != np.uint8:
        picture = picture.astype(np.float32)
        low, high = picture.min(), picture.max()
        picture = (picture - low) / max(high - low, np.finfo(np.float32).tiny)

    limits = (0, 255) if picture.dtype == np.uint8 else (0, 1)
    axis.imshow(picture.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=limits[0], vmax=limits[1])


def _draw_frames(axis: "Axes", frames: NDArray[Any], spec: DatasetSpec) -> None:
    shown = frames[np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)]
    _draw_image(axis, np.concatenate(list(shown), axis=-1), spec)


def _draw_spectrogram(axis: "Axes", spectrogram: NDArray[Any], spec: DatasetSpec) -> None:
    axis.imshow(spectrogram[0].astype(np.float32), origin="lower", aspect="auto")


def _draw_series(axis: "Axes", series: NDArray[Any], spec: DatasetSpec) -> None:
    axis.plot(series.T, linewidth=0.8)


def _draw_vector(axis: "Axes", vector: NDArray[Any], spec: DatasetSpec) -> None:
    """Draw a bar for each feature, in stored units."""
    axis.bar(np.arange(len(vector)), vector.astype(np.float32), width=1.0)


def _draw_tokens(axis: "Axes", tokens: NDArray[Any], spec: DatasetSpec) -> None:
    count = f"{np.count_nonzero(tokens)} tokens"
    try:
        words = decode_text(tokens, spec.tools["tokenizer"])
    except (KeyError, PrepError):
        words = ""

    text = f"{textwrap.shorten(words, 110)}\n({count})" if words else count
    # Else matplotlib takes what stands between two of them for a formula
    plain = text.replace("$", r"\$")
    axis.text(
        0.5,
        0.5,
        textwrap.fill(plain, 26),
        ha="center",
        va="center",
        fontsize=7,
        transform=axis.transAxes,
    )


_DRAWN: dict[str, Callable[["Axes", NDArray[Any], DatasetSpec], None]] = {
    "image": _draw_image,
    "frames": _draw_frames,
    "spectrogram": _draw_spectrogram,
    "series": _draw_series,
    "vector": _draw_vector,
    "tokens": _draw_tokens,
}
"""Kind -> how a stored sample is drawn."""
