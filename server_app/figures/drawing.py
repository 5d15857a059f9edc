"""Every picture of this project, drawn into an empty figure.

``savers.py`` puts it into a page or a file.

Colours suit colour-blind eyes, and nothing depends on the user's own style.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, without black and yellow."""
BLACK, GREY, PALE = "#1b1b1b", "#bdbdbd", "#ececec"
_MOST_LABELS = 30
"""On one axis; of more rows or columns, every second, third, ... is labelled."""
_LONGEST_LABEL = 34
"""Characters; longer ones end in an ellipsis."""

Draw = Callable[[FigureBase], None]
"""Draws into an empty figure."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    x: ArrayLike
    y: ArrayLike
    """NaN: a gap."""
    colour: str
    dashed: bool = False
    half: ArrayLike | None = None
    """Half-width of the band around the line."""


def draw_panels(figure: FigureBase, panels: Mapping[str, Draw], side_by_side: bool = False) -> None:
    """Draw several pictures, each under its title.

    Parameters
    ----------
    figure
        Empty.
    panels
        Title -> picture, one or more.
    side_by_side
        Whether they stand beside each other instead of below each other.
    """
    shape = (1, len(panels)) if side_by_side else (len(panels), 1)
    parts = figure.subfigures(*shape, squeeze=False).flat

    for part, (title, draw) in zip(parts, panels.items(), strict=True):
        part.suptitle(title)
        draw(part)


def draw_lines(
    figure: FigureBase,
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    limits: tuple[float | None, float | None],
) -> None:
    """Draw lines with bands; the legend is below. Grey lines share one entry.

    Parameters
    ----------
    figure
        Empty.
    lines
        Drawn in reverse, so that the first is on top.
    xlabel
        With its unit.
    ylabel
        With its unit.
    limits
        Of the y axis; None: of the data.
    """
    axes = figure.subplots()
    handles = {}
    for line in reversed(lines):
        [handle] = axes.plot(line.x, line.y, "--" if line.dashed else "-", color=line.colour)
        if len(np.atleast_1d(line.x)) <= 2:
            handle.set_marker("o")

        if line.half is not None:
            y, half = np.asarray(line.y, dtype=float), np.asarray(line.half, dtype=float)
            axes.fill_between(
                line.x, y - half, y + half, color=line.colour, alpha=0.15, linewidth=0
            )

        handles[line.label] = handle

    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=(1, 2, 5, 10), integer=True))
    axes.grid(alpha=0.3)
    labels = list(dict.fromkeys(line.label for line in lines))
    _legend_below(figure, [handles[label] for label in labels], labels)


def _legend_below(figure: FigureBase, handles: Sequence[object], labels: Sequence[str]) -> None:
    if not labels:
        return

    columns = 3 if max(map(len, labels)) <= 16 else 2
    shown = [_short(label) for label in labels]
    figure.legend(handles=list(handles), labels=shown, loc="outside lower center", ncols=columns)


def heat_map_height(rows: int) -> float:
    """Return the height in inches of a heat map."""
    return 1.0 + min(max(0.19 * rows, 0.8), 6.0)


def draw_heat_map(
    figure: FigureBase,
    values: NDArray[np.float64],
    rows: Sequence[str],
    xlabel: str,
    label: str,
    limits: tuple[float, float],
    columns: Sequence[str] | None = None,
    start: float = 0,
    colours: str = "viridis",
) -> None:
    """Draw a heat map; grey: NaN.

    Parameters
    ----------
    figure
        Empty.
    values
        [rows, columns].
    rows
        Their names.
    xlabel
        What the columns are.
    label
        What the colours are, with the unit.
    limits
        Values of the first and of the last colour.
    columns
        Their names, with which few cells carry their numbers; None: they are counted from
        ``start``.
    start
        Number of the first column.
    colours
        Name of a colour map.
    """
    axes = figure.subplots()
    low, high = limits if limits[0] < limits[1] else (limits[0] - 0.5, limits[0] + 0.5)
    extent = (start - 0.5, start + values.shape[1] - 0.5, len(rows) - 0.5, -0.5)
    image = axes.imshow(
        values, colours, aspect="auto", interpolation="none", extent=extent, vmin=low, vmax=high
    )
    axes.set_facecolor(GREY)
    axes.set(xlabel=xlabel)
    _tick(axes, "y", rows)
    if columns is not None:
        _tick(axes, "x", columns)
        if max(map(len, columns)) * len(columns) > 2 * _MOST_LABELS:
            axes.tick_params("x", rotation=90)

        _write_cells(axes, values, (low + high) / 2)

    figure.colorbar(image, ax=axes, label=label, pad=0.02)


def _write_cells(axes: Axes, values: NDArray[np.float64], middle: float) -> None:
    if values.shape[1] > 12:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8
            )


def _tick(axes: Axes, axis: str, names: Sequence[str]) -> None:
    """Name the rows or columns of a heat map; where there are many, every second, third, ..."""
    indices = range(0, len(names), -(-len(names) // _MOST_LABELS))
    shown = [_short(names[index]) for index in indices]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(list(indices), shown)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def draw_intervals(
    figure: FigureBase,
    rows: Sequence[str],
    means: NDArray[np.float64],
    halves: NDArray[np.float64],
    names: Sequence[str],
) -> None:
    """Draw a row of dots with intervals for every method.

    Parameters
    ----------
    figure
        Empty.
    rows
        Methods, from the top.
    means
        [rows, names], in %.
    halves
        [rows, names], half-widths; NaN: no interval is known.
    names
        What the colours are; the first is black.
    """
    axes = figure.subplots()
    indices = np.arange(len(rows))
    offsets = np.linspace(-0.22, 0.22, len(names)) if len(names) > 1 else np.zeros(1)
    handles = []
    for index, offset in enumerate(offsets):
        colour = BLACK if index == 0 else COLOURS[(index - 1) % len(COLOURS)]
        shown = np.nan_to_num(halves[:, index])
        handles.append(
            axes.errorbar(
                means[:, index],
                indices + offset,
                xerr=shown,
                fmt="o",
                color=colour,
                markersize=4,
                capsize=2,
            )
        )

    axes.set_yticks(indices, [_short(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 100))
    axes.set_xlabel("accuracy (%)")
    axes.grid(axis="x", alpha=0.3)
    _legend_below(figure, handles, names)


def draw_dominance(
    figure: FigureBase,
    rounds: Sequence[int],
    strips: Sequence[tuple[str, Sequence[str | None]]],
    ratios: Sequence[tuple[str, NDArray[np.float64]]],
    colours: dict[str, str],
) -> None:
    """Draw who is dominant in each round, and below how far the weak modalities are behind.

    Parameters
    ----------
    figure
        Empty.
    rounds
        Without gaps.
    strips
        (name, modality of each round); None: nobody.
    ratios
        (modality, ln r [rounds, classes]); NaN where it was not weak.
    colours
        Of the modalities.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3.2))
    cells = [
        [matplotlib.colors.to_rgb(colours[name] if name else PALE) for name in names]
        for _, names in strips
    ]
    extent = (rounds[0] - 0.5, rounds[-1] + 0.5, len(strips) - 0.5, -0.5)
    top.imshow(np.array(cells), aspect="auto", interpolation="none", extent=extent)
    top.set_yticks(range(len(strips)), [name for name, _ in strips])
    top.axhline(0.5, color="white", linewidth=2)
    for name, values in ratios:
        known = ~np.isnan(values).all(axis=1)
        indices, kept = np.array(rounds)[known], values[known]
        bottom.vlines(
            indices,
            np.nanmin(kept, axis=1),
            np.nanmax(kept, axis=1),
            color=colours[name],
            alpha=0.35,
        )
        bottom.plot(indices, np.nanmean(kept, axis=1), "o", color=colours[name], markersize=3)

    bottom.axhline(0, color="#888888", linewidth=0.8)
    bottom.set(xlabel="round", ylabel="ln(p dominant / p weak)")
    bottom.grid(alpha=0.3)
    shown = {**colours, "nobody": PALE} if any(None in names for _, names in strips) else colours
    _legend_below(figure, [Patch(color=colour) for colour in shown.values()], list(shown))


def draw_nodes(
    figure: FigureBase,
    nodes: Sequence[str],
    owned: Sequence[Sequence[str]],
    examples: Sequence[int | None],
    colours: dict[str, str],
) -> None:
    """Draw what each node owns, and below how many samples it has.

    Parameters
    ----------
    figure
        Empty.
    nodes
        Partition ids.
    owned
        Modalities of each node.
    examples
        Training samples of each node; None: not known.
    colours
        Of the modalities.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(0.35 * len(colours), 2.0))
    cells = [
        [matplotlib.colors.to_rgb(colours[name] if name in own else PALE) for own in owned]
        for name in colours
    ]
    top.imshow(np.array(cells), aspect="auto", interpolation="none")
    top.set_yticks(range(len(colours)), [_short(name) for name in colours])
    top.hlines(np.arange(1, len(colours)) - 0.5, -0.5, len(nodes) - 0.5, color="white", linewidth=2)
    indices = np.arange(len(nodes))
    top.vlines(
        indices[1:] - 0.5,
        -0.5,
        len(colours) - 0.5,
        color="white",
        linewidth=min(2, 40 / len(nodes)),
    )
    known = np.array([count is not None for count in examples])
    counts = np.array([count or 0 for count in examples], dtype=float)
    tallest = max(counts.max(initial=0.0), 1.0)
    bottom.bar(indices[known], counts[known], color="#555555")
    bottom.bar(indices[~known], tallest, color="white", edgecolor=GREY, hatch="////", linewidth=0)
    _tick(bottom, "x", nodes)
    if not known.any():
        bottom.set_yticks([])

    bottom.set(
        xlabel="node (partition id)", ylabel="training samples", xlim=(-0.6, len(nodes) - 0.4)
    )
    legend = [Patch(color="#555555"), Patch(facecolor="white", edgecolor=GREY, hatch="////")]
    _legend_below(figure, legend, ["samples", "not known"])
