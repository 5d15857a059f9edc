"""The section of a run's page on fairness.

Classes, nodes, and what each modality gives each node.
"""

from functools import partial

import numpy as np

from server_app.figures.drawing import BLACK, COLOURS, Line, draw_lines
from server_app.figures.fairness import (
    PERSONAL,
    Spread,
    ablation_gain,
    gains,
    lowest,
    mean_class_accuracy,
    owned_modalities,
    per_node,
    sentences,
    spread,
)
from server_app.figures.savers import Chart, svg_chart
from server_app.figures.statistics import MAIN, Floats, class_accuracy
from server_app.pages import html
from server_app.run.held_out import evaluated_on
from server_app.run.reader import Record, RunFiles
from server_app.run.records import last_rounds, percent

NOBODY_EVALUATED = (
    "No node evaluated on its own test samples in the last rounds (fraction-evaluate, "
    "evaluate-from), so nothing is said of nodes."
)


def fairness_section(run: RunFiles) -> list[str]:
    """Return the section.

    Parameters
    ----------
    run
        With one trained round or more.

    Returns
    -------
    HTML.
    """
    last = last_rounds(run.records)
    said = html.bullets(f"{line[0].upper()}{line[1:]}." for line in sentences(last, run.classes))
    charts = [_classes_over_rounds(run), *_nodes_over_rounds(run)]
    parts = [html.heading("Fairness"), said, html.figures(charts), _class_table(run, last)]
    if not per_node(last, MAIN):
        return [*parts, html.paragraph(NOBODY_EVALUATED)]

    return [*parts, _node_table(run, last), _modality_table(run, last)]


def _rounds(last: list[Record]) -> str:
    return f"mean of the last {len(last)} rounds" if len(last) > 1 else "of the last round"


def _class_table(run: RunFiles, last: list[Record]) -> str:
    accuracy = mean_class_accuracy(last, MAIN)
    counts = last[-1]["counts"][MAIN]["count"]
    weak = [
        name
        for name in run.modalities
        if any(name in record["measured"]["ratio"] for record in last)
    ]
    measured = [(key, name) for name in weak for key in ("ratio", "temperature")]
    columns = [_measured(last, key, name, len(run.classes)) for key, name in measured]
    rows = [
        [name, str(counts[c]), _marked(accuracy, c), *(_number(column[c]) for column in columns)]
        for c, name in enumerate(run.classes)
    ]
    heads = [f"{'r' if key == 'ratio' else 'T'} {name}" for key, name in measured]
    caption = (
        f"Classes: accuracy ({MAIN}) on {evaluated_on(run.config)}, {_rounds(last)}; the worst "
        "stands out. r: the true class's probability by the dominant modality over that by the "
        "weak one; T: the temperature made of it."
    )

    return html.table(caption, ["class", "samples", "accuracy", *heads], rows)


def _measured(last: list[Record], key: str, modality: str, classes: int) -> Floats:
    """Return the mean over the rounds that measured it, [classes]; NaN where none did."""
    blank = [None] * classes
    values = np.array(
        [record["measured"][key].get(modality, blank) for record in last], dtype=float
    )
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=0)
    mean: Floats = np.divide(
        total, known.sum(axis=0), out=np.full(classes, np.nan), where=known.any(axis=0)
    )

    return mean


def _marked(accuracy: Floats, index: int) -> str:
    text = percent(float(accuracy[index]))
    worst = not np.isnan(accuracy).all() and index == int(np.nanargmin(accuracy))
    return html.Strong(text) if worst else text


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _classes_over_rounds(run: RunFiles) -> Chart:
    rounds = [record["round"] for record in run.records]
    found = [spread(column) for column in class_accuracy(run.records, MAIN).T / 100]
    caption = (
        f"Prediction: {MAIN}, on {evaluated_on(run.config)}. Band: standard deviation over the "
        "classes."
    )

    return _spread_chart(
        "fairness-classes", "Classes over rounds", caption, rounds, found, "class", "classes"
    )


def _nodes_over_rounds(run: RunFiles) -> list[Chart]:
    told = [(record["round"], per_node([record], MAIN)) for record in run.trained]
    rounds = [number for number, nodes in told if nodes]
    found = [spread(list(nodes.values())) for _, nodes in told if nodes]
    if not rounds:
        return []

    caption = (
        f"Prediction: {MAIN}, on the nodes' own test samples. Band: standard deviation over the "
        "nodes."
    )

    return [
        _spread_chart(
            "fairness-nodes", "Nodes over rounds", caption, rounds, found, "node", "nodes"
        )
    ]


def _spread_chart(
    kind: str,
    title: str,
    caption: str,
    rounds: list[int],
    found: list[Spread],
    one: str,
    several: str,
) -> Chart:
    mean, worst, deviation, tenth = (
        100 * np.array([getattr(item, key) for item in found])
        for key in ("mean", "worst", "deviation", "tenth")
    )
    lines = [
        Line(f"mean of {several}", rounds, mean, BLACK, half=deviation),
        Line("10th percentile", rounds, tenth, COLOURS[0]),
        Line(f"worst {one}", rounds, worst, COLOURS[1]),
    ]
    draw = partial(draw_lines, lines=lines, xlabel="round", ylabel="accuracy (%)", limits=(0, 100))

    return svg_chart(kind, "", title, caption, 3.4, draw)


def _node_table(run: RunFiles, last: list[Record]) -> str:
    accuracy, owned = per_node(last, MAIN), owned_modalities(run.trained)
    worst_class, samples = (per_node(last, MAIN, key) for key in ("worst_class", "samples"))
    personal = per_node(last, PERSONAL)
    gained, worst = gains(personal, accuracy), lowest(accuracy)
    rows = []

    for node, value in accuracy.items():
        text = html.Strong(percent(value)) if node == worst else percent(value)
        cells = [
            node,
            "+".join(owned.get(node, [])),
            f"{samples[node]:.0f}",
            text,
            percent(worst_class.get(node)),
        ]
        rows.append(
            [
                *cells,
                *([percent(personal.get(node)), _points(gained.get(node))] if personal else []),
            ]
        )

    columns = ["node", "owns", "test samples", "accuracy", "worst class"]
    columns += ["with heads of its own", "gain (points)"] if personal else []
    caption = (
        "Nodes: the global model with all that the node owns, on the node's own test samples, "
        f"mean over those of the last {len(last)} rounds in which it evaluated; the worst stands "
        "out."
    )

    return html.table(caption, columns, rows)


def _modality_table(run: RunFiles, last: list[Record]) -> str:
    accuracy, owned = per_node(last, MAIN), owned_modalities(run.trained)
    given = {name: ablation_gain(last, name, owned) for name in run.modalities}
    rows = [
        [node, percent(value), *(_points(given[name].get(node)) for name in run.modalities)]
        for node, value in accuracy.items()
    ]
    caption = (
        "What each modality gives each node: points of accuracy that are lost when the model is "
        "not shown the modality and has all others that the node owns. A node with one modality "
        "has its accuracy alone."
    )

    return html.table(caption, ["node", "with all it owns", *run.modalities], rows)
