"""PNG plots of one run, and of a bench."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from numpy.typing import NDArray

from server_app.figures.drawing import COLOURS, Draw, Line, draw_lines, draw_panels, heat_map_height
from server_app.figures.run_drawings import (
    draw_accuracy,
    draw_measured_dominance,
    draw_temperatures,
)
from server_app.figures.savers import save_png

Records = Sequence[Mapping[str, Any]]
Band = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Rounds, mean over seeds and half-width of its interval, each [rounds]."""
WIDTH = 7.0
"""Inches."""


def plot_run(
    records: Records, modalities: Sequence[str], classes: Sequence[str], directory: Path
) -> None:
    """Draw accuracy.png and, where a modality was dominant, dominance.png and temperature.png.

    Parameters
    ----------
    records
        Of all rounds, round 0 first.
    modalities
        Of the run.
    classes
        Names in index order.
    directory
        Where to.
    """
    rounds = [record["round"] for record in records]
    accuracy = draw_accuracy(records, modalities, rounds, "round", "accuracy (%)")
    save_png(directory / "accuracy.png", WIDTH, 4.8, accuracy)

    trained = [record for record in records if record["round"] > 0]
    if not any(record["measured"]["dominant"] for record in trained):
        return

    dominance = draw_measured_dominance(trained, modalities, len(classes))
    save_png(directory / "dominance.png", WIDTH, 4.8, dominance)

    temperatures = draw_temperatures(trained, modalities, classes)
    if temperatures:
        height = len(temperatures) * (0.3 + heat_map_height(len(classes)))
        save_png(
            directory / "temperature.png", WIDTH, height, partial(draw_panels, panels=temperatures)
        )


def plot_bench(bands: Mapping[str, Mapping[str, Band]], path: Path) -> None:
    """Draw accuracy over rounds.

    A panel for each way to predict, a line with its interval for each row.

    Parameters
    ----------
    bands
        Prediction -> row -> rounds, mean and half-width in %.
    path
        PNG file to write.
    """
    colours = _row_colours(sorted({row for of_rows in bands.values() for row in of_rows}))
    panels: dict[str, Draw] = {}
    for prediction, of_rows in bands.items():
        lines = [
            Line(row, x, mean, colours[row], half=half) for row, (x, mean, half) in of_rows.items()
        ]
        panels[prediction] = partial(
            draw_lines, lines=lines, xlabel="round", ylabel="accuracy (%)", limits=(0, 100)
        )

    height = 4.2 + 0.1 * len(colours)  # with room for the legend
    save_png(path, 5.5 * len(bands), height, partial(draw_panels, panels=panels, side_by_side=True))


def _row_colours(rows: Sequence[str]) -> dict[str, str]:
    """Return a colour for each row; of more rows than COLOURS, some are hard to tell apart."""
    tab20 = matplotlib.colormaps["tab20"]
    many = [matplotlib.colors.to_hex(tab20(index)) for index in range(20)]
    palette = COLOURS if len(rows) <= len(COLOURS) else many

    return {row: palette[index % len(palette)] for index, row in enumerate(rows)}
