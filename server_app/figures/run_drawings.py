"""Pictures of a run's records, for its page and its directory."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedcmi_flwr.evaluation.counts import is_head
from fedcmi_flwr.types import Modality
from server_app.figures.drawing import (
    BLACK,
    COLOURS,
    Draw,
    Line,
    draw_dominance,
    draw_heat_map,
    draw_lines,
)
from server_app.figures.statistics import Floats, Records


def modality_colours(modalities: Sequence[str]) -> dict[str, str]:
    """Return a colour for every modality, the same in all pictures."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(modalities)}


def draw_accuracy(
    records: Records, modalities: Sequence[Modality], x: ArrayLike, xlabel: str, ylabel: str
) -> Draw:
    """Return the picture of every prediction's accuracy; self heads are dashed.

    Parameters
    ----------
    records
        [rounds], round 0 included.
    modalities
        Of the run.
    x
        [rounds], what the accuracies are drawn over.
    xlabel
        What that is, with its unit.
    ylabel
        What the accuracies are of, with their unit.

    Returns
    -------
    The picture.
    """
    predictions = {name: name.rpartition(" ")[0] for name in records[0]["accuracy"]}
    pairs = [subset for subset in predictions.values() if "+" in subset]
    colours = modality_colours([*modalities, *pairs])
    lines = [
        Line(
            name,
            x,
            100 * column(records, "accuracy", name),
            colours.get(subset, BLACK),
            is_head(name),
        )
        for name, subset in predictions.items()
    ]

    return partial(draw_lines, lines=lines, xlabel=xlabel, ylabel=ylabel, limits=(0, 100))


def draw_losses(trained: Records) -> Draw:
    """Return the picture of every loss term over the rounds that were trained."""
    rounds = [record["round"] for record in trained]
    names = list(dict.fromkeys(name for record in trained for name in record["losses"]))
    colours = [BLACK, *(COLOURS[index % len(COLOURS)] for index in range(len(names)))]
    lines = [
        Line(name, rounds, column(trained, "losses", name), colour)
        for name, colour in zip(names, colours, strict=False)
    ]

    return partial(draw_lines, lines=lines, xlabel="round", ylabel="loss (nats)", limits=(0, None))


def draw_measured_dominance(trained: Records, modalities: Sequence[Modality], classes: int) -> Draw:
    """Return the picture of who is dominant in each round, and how far the weak ones are behind.

    Parameters
    ----------
    trained
        The rounds that were trained.
    modalities
        Of the run.
    classes
        Their number.

    Returns
    -------
    The picture.
    """
    measured = [record["measured"]["dominant"] for record in trained]
    teachers = [record["teacher"] for record in trained]
    ratios = {
        name: _per_class(trained, "ratio", name, classes)
        for name in weak_modalities(trained, modalities)
    }

    return partial(
        draw_dominance,
        rounds=[record["round"] for record in trained],
        strips=[("measured", measured), ("teacher", teachers)],
        ratios=[(name, _logarithm(ratio)) for name, ratio in ratios.items()],
        colours=modality_colours(modalities),
    )


def draw_temperatures(
    trained: Records, modalities: Sequence[Modality], classes: Sequence[str]
) -> dict[Modality, Draw]:
    """Return the pictures of each weak modality's class temperatures over the rounds, with one
    range of colours.

    Parameters
    ----------
    trained
        The rounds that were trained.
    modalities
        Of the run.
    classes
        Their names.

    Returns
    -------
    Modality -> picture.
    """
    weak = weak_modalities(trained, modalities)
    values = {name: _per_class(trained, "temperature", name, len(classes)).T for name in weak}
    found = np.concatenate([np.ones(1), *(value[np.isfinite(value)] for value in values.values())])
    draw = partial(
        draw_heat_map,
        rows=classes,
        xlabel="round",
        label="class temperature",
        limits=(float(found.min()), float(found.max())),
        start=trained[0]["round"],
        colours="plasma",
    )

    return {name: partial(draw, values=value) for name, value in values.items()}


def weak_modalities(trained: Records, modalities: Sequence[Modality]) -> list[Modality]:
    """Return the modalities that were behind the dominant one in any round."""
    return [
        name
        for name in modalities
        if any(name in record["measured"]["ratio"] for record in trained)
    ]


def column(records: Records, key: str, name: str) -> Floats:
    """Return one figure of every round, [rounds]; NaN where it is null or missing."""
    return np.array([record[key].get(name) for record in records], dtype=float)


def _per_class(
    trained: Sequence[Mapping[str, Any]], key: str, modality: Modality, classes: int
) -> Floats:
    """Return what was measured of a modality, [rounds, classes]; NaN where it was not weak."""
    blank = [None] * classes
    return np.array(
        [record["measured"][key].get(modality, blank) for record in trained], dtype=float
    )


def _logarithm(values: Floats) -> Floats:
    """Return ln of what is above 0; NaN for the others, which no axis can show."""
    return np.log(np.where(values > 0, values, np.nan))
