"""How evenly a model serves classes and nodes, and what each modality gives a node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcmi_flwr.evaluation.counts import only_name
from fedcmi_flwr.types import Modality
from server_app.figures.statistics import MAIN, Floats, Records, class_accuracy, interval_text

FIGURES = {
    "worst_class": "worst class",
    "class_spread": "spread of classes",
    "mean_node": "mean of nodes",
    "worst_node": "worst node",
    "node_spread": "spread of nodes",
    "personal_gain": "gain by own heads",
    "profiting": "nodes that profit",
    "worst_gain": "worst loser",
}
"""Column of results.csv -> its name for people; spreads are standard deviations."""
PERSONAL = f"personal {MAIN}"
"""What nodes call the main prediction by heads of their own."""


@dataclass(frozen=True)
class Spread:
    """How the accuracies of classes, or of nodes, differ; NaN where there are none."""

    mean: float
    worst: float
    deviation: float
    """Standard deviation over the classes or nodes there are, not an estimate for others."""
    tenth: float
    """10th percentile, interpolated."""


def spread(values: Sequence[float] | Floats) -> Spread:
    """Return how values differ; NaN among them are left out.

    Parameters
    ----------
    values
        Of classes or nodes.

    Returns
    -------
    In the values' unit.

    Examples
    --------
    >>> spread([0.5, 1.0, float("nan"), 0.75])
    Spread(mean=0.75, worst=0.5, deviation=0.2041241452319315, tenth=0.55)
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return Spread(*[float("nan")] * 4)

    figures = (known.mean(), known.min(), known.std(), np.percentile(known, 10))

    return Spread(*map(float, figures))


def mean_class_accuracy(records: Records, prediction: str) -> Floats:
    """Return the mean over rounds of each class's accuracy in [0, 1], [classes].

    NaN without samples.
    """
    mean: Floats = class_accuracy(records, prediction).mean(axis=1) / 100
    return mean


def per_node(records: Records, prediction: str, figure: str = "accuracy") -> dict[str, float]:
    """Return a figure of every node that evaluated, its mean over the rounds in which it did.

    Parameters
    ----------
    records
        Of the rounds to look at.
    prediction
        Of which; nodes that cannot predict so are left out.
    figure
        "accuracy", "worst_class" or "samples".

    Returns
    -------
    Partition id -> mean, in the order of the ids.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        for node, predictions in record.get("evaluated_by", {}).items():
            value = predictions.get(prediction, {}).get(figure)
            if value is not None:
                found.setdefault(node, []).append(value)

    return {node: float(np.mean(found[node])) for node in sorted(found, key=int)}


def gains(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return after - before of every node that has both."""
    return {node: value - before[node] for node, value in after.items() if node in before}


def ablation_gain(
    records: Records, modality: Modality, owned: Mapping[str, Sequence[Modality]]
) -> dict[str, float]:
    """Return the accuracy that a modality adds on each node that owns others too.

    Parameters
    ----------
    records
        Of the rounds to look at.
    modality
        Which.
    owned
        Partition id -> modalities of the node, in the federation's order.

    Returns
    -------
    Partition id -> accuracy with all that the node owns minus that with all but this one; nodes
    that did not count the latter are left out.
    """
    others = {
        node: [name for name in names if name != modality]
        for node, names in owned.items()
        if modality in names
    }
    predictions = {node: only_name("+".join(names)) for node, names in others.items() if names}
    without = {
        prediction: per_node(records, prediction) for prediction in set(predictions.values())
    }
    before = {
        node: without[name][node] for node, name in predictions.items() if node in without[name]
    }

    return gains(per_node(records, MAIN), before)


def figures(records: Records, prediction: str) -> dict[str, float]:
    """Return FIGURES of a prediction over the rounds to look at.

    NaN for those that nobody counted.
    """
    classes = spread(mean_class_accuracy(records, prediction))
    accuracy = per_node(records, prediction)
    nodes = spread(list(accuracy.values()))
    gained = np.array(list(gains(per_node(records, f"personal {prediction}"), accuracy).values()))
    won = float(np.mean(gained > 0)) if gained.size else float("nan")
    personal = spread(gained)
    found = (
        classes.worst,
        classes.deviation,
        nodes.mean,
        nodes.worst,
        nodes.deviation,
        personal.mean,
        won,
    )

    return dict(zip(FIGURES, (*found, personal.worst), strict=True))


def lowest(values: Mapping[str, float]) -> str:
    """Return the node with the lowest value."""
    return min(values, key=lambda node: values[node])


def sentences(records: Records, classes: Sequence[str]) -> list[str]:
    """Return what a summary says of fairness.

    Parameters
    ----------
    records
        Of the last rounds.
    classes
        Their names.

    Returns
    -------
    One sentence on classes; where nodes evaluated, one on nodes and one on what they own; and
    where they had heads of their own, one on these.
    """
    values = mean_class_accuracy(records, MAIN)
    found, nodes = spread(values), per_node(records, MAIN)
    if np.isnan(found.worst):
        return []

    worst = classes[int(np.nanargmin(values))]
    lines = [f"worst class: {worst} with {_percent(found.worst)}; {_deviation(found)} over classes"]
    if nodes:
        found = spread(list(nodes.values()))
        lines.append(
            f"on {len(nodes)} nodes' test samples: mean {_percent(found.mean)}, 10th percentile "
            f"{_percent(found.tenth)}, worst {_percent(found.worst)} (node {lowest(nodes)}); "
            f"{_deviation(found)} over nodes"
        )
        lines.append(_by_what_they_own(nodes, owned_modalities(records)))

    gained = gains(per_node(records, PERSONAL), nodes)

    return [*lines, *([_personal_sentence(gained)] if gained else [])]


def _by_what_they_own(nodes: Mapping[str, float], owned: Mapping[str, Sequence[Modality]]) -> str:
    groups: dict[str, list[float]] = {}
    for node, value in nodes.items():
        groups.setdefault("+".join(owned.get(node, ["unknown"])), []).append(value)

    means = [
        f"{name} {_percent(float(np.mean(groups[name])))} ({len(groups[name])})"
        for name in sorted(groups)
    ]

    return f"mean by what nodes own (and how many do): {', '.join(means)}"


def _personal_sentence(gained: Mapping[str, float]) -> str:
    values = [100 * value for value in gained.values()]
    won, least = sum(value > 0 for value in values), lowest(gained)
    return (
        f"heads of the node's own give {interval_text(values, '+.1f')} points (95 % interval over "
        f"nodes); {won} of {len(values)} nodes profit, the least node {least} with "
        f"{100 * gained[least]:+.1f}"
    )


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _deviation(found: Spread) -> str:
    return f"standard deviation {100 * found.deviation:.1f} points"


def owned_modalities(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Modality]]:
    """Return what each node owns, as it last said.

    Partition id -> modalities, in the order of the ids.
    """
    owned: dict[str, list[Modality]] = {}
    for record in records:
        owned |= record["known_nodes"]

    return {node: owned[node] for node in sorted(owned, key=int)}
