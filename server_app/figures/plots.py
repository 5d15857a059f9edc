"""PNG plots of one run, and of a bench."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedcmi_flwr.evaluation.counts import is_head

Records = Sequence[Mapping[str, Any]]
Band = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Rounds, mean over seeds and half-width of its interval, each [rounds]."""


def plot_accuracy(records: Records, path: Path) -> None:
    """Draw the accuracy of every way to predict over the rounds; self heads dashed."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    rounds = [record["round"] for record in records]
    for name in records[-1]["accuracy"]:
        values = 100 * np.array([record["accuracy"][name] for record in records], dtype=float)
        axes.plot(rounds, values, "--" if is_head(name) else "-", label=name)
    axes.set(xlabel="round", ylabel="accuracy (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def plot_bench(bands: Mapping[str, Mapping[str, Band]], title: str, path: Path) -> None:
    """Draw accuracy over rounds: a panel for each way to predict, a line with its interval for each row.

    Parameters
    ----------
    bands
        Prediction -> row -> rounds, mean and half-width in %.
    title
        The setting.
    path
        PNG file to write.
    """
    rows = sorted({row for of_rows in bands.values() for row in of_rows})
    colours = {
        row: f"C{index}" if len(rows) <= 10 else colormaps["tab20"](index % 20) for index, row in enumerate(rows)
    }
    figure = Figure(figsize=(5.5 * len(bands), 5), layout="constrained")
    panels = figure.subplots(1, len(bands), squeeze=False, sharey=True)[0]
    for axes, (prediction, of_rows) in zip(panels, bands.items(), strict=True):
        for row, (rounds, mean, half) in of_rows.items():
            axes.plot(rounds, mean, color=colours[row], label=row)
            axes.fill_between(rounds, mean - half, mean + half, color=colours[row], alpha=0.15, linewidth=0)
        axes.set(xlabel="round", title=prediction, ylim=(0, 100))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy (%)")
    panels[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def plot_dominance(records: Records, classes: Sequence[str], path: Path) -> None:
    """Draw ln r_{m,c} of every weak modality: above 0 the dominant modality predicts the class better."""
    _plot_per_class(records, "ratio", "ln(p dominant / p weak)", np.log, classes, path)


def plot_temperature(records: Records, classes: Sequence[str], path: Path) -> None:
    """Draw T_{m,c} of every weak modality: below 1 its teacher is sharper."""
    _plot_per_class(records, "temperature", "class temperature T", np.asarray, classes, path)


def _plot_per_class(
    records: Records,
    key: str,
    label: str,
    transform: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw heat maps, one a modality, classes over rounds; grey: the modality was not weak or not measured."""
    names = sorted({name for record in records for name in record["measured"][key]})
    figure = Figure(figsize=(7, 1.2 + 2.6 * len(names)), layout="constrained")
    rounds = [record["round"] for record in records]
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        blank = [None] * len(classes)
        columns = [record["measured"][key].get(name, blank) for record in records]
        values = transform(np.array(columns, dtype=float).T)
        extent = (rounds[0] - 0.5, rounds[-1] + 0.5, len(classes) - 0.5, -0.5)
        image = axes.imshow(values, aspect="auto", interpolation="nearest", extent=extent)
        axes.set_facecolor("lightgrey")
        axes.set(xlabel="round", ylabel="class", title=f"{name}: {label}")
        axes.set_yticks(range(len(classes)), classes)
        figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=120)
