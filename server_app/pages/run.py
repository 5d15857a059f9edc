"""The page of one run: result, charts, nodes, settings, environment."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.evaluation.counts import is_head
from fedcmi_flwr.models.file import CARD
from server_app.figures.charts import (
    BLACK,
    COLOURS,
    Chart,
    Line,
    chart,
    draw_dominance,
    draw_heat_map,
    draw_lines,
    draw_nodes,
    heat_map_height,
)
from server_app.figures.statistics import class_accuracy, cumulative_megabytes
from server_app.pages import html
from server_app.pages.fairness import fairness_section
from server_app.pages.settings import environment_table, settings_tables
from server_app.run.matrix import explanation, matrix_table
from server_app.run.reader import Record, RunFiles
from server_app.run.records import LAST_ROUNDS, epsilon_spent, failed_rounds, final_accuracy, percent
from server_app.run.summary import calibrated_on, evaluated_on

NO_TEMPERATURES = (
    "No round measured a dominant modality or class temperatures (only methods that distil from it do), so there is "
    "no chart of them."
)
LAST_FIGURES = {
    "accuracy": "last round",
    "macro": "macro",
    "worst_class": "worst class",
    "calibration_error": "calibration error",
}
"""Of the last round: key of its record -> column."""


def run_page(run: RunFiles) -> str:
    """Return the page of a run that finished or failed.

    Parameters
    ----------
    run
        What was read of it.

    Returns
    -------
    HTML.
    """
    reason = run.error.partition("\n")[0]
    failed = [html.failure(reason, run.error)] if run.error else []
    if not run.config:
        return html.page("A run that failed before it began", *failed)
    title = f"{run.config['method']} on {run.config['data']}, seed {run.config['seed']}"
    rest = [html.heading("Settings"), *settings_tables(run.config), environment_table([run.config])]
    if not run.trained:
        return html.page(title, *failed, html.paragraph("No round was trained."), *rest)
    return html.page(title, *failed, *_results(run), *_dominance(run), *fairness_section(run), *_nodes(run), *rest)


def accuracy_label(config: Mapping[str, Any]) -> str:
    """Return the label of an axis with accuracies in %, by what the run was evaluated on."""
    return f"{'validation' if config.get('validation-share') else 'test'} accuracy (%)"


def _results(run: RunFiles) -> list[str]:
    trained, mean = run.trained, final_accuracy(run.records)
    last = trained[-1]
    rows = [
        [name, html.Strong(percent(value)), *(percent(last.get(key, {}).get(name)) for key in LAST_FIGURES)]
        for name, value in mean.items()
    ]
    columns = [f"mean of last {min(LAST_ROUNDS, len(trained))} rounds", *LAST_FIGURES.values()]
    down, up = (sum(sum(record[key].values()) for record in trained) / 1e6 for key in ("bytes_down", "bytes_up"))
    known = [
        ("rounds", str(len(trained))),
        ("training time", f"{sum(record['seconds'] for record in trained):.1f} s"),
        ("sent to nodes", f"{down:.2f} MB"),
        ("received from nodes", f"{up:.2f} MB"),
        ("dominant in the last round", last["measured"]["dominant"] or "not measured"),
        ("differential privacy", epsilon_spent(last)),
        ("failed rounds", str(len(failed_rounds(trained)))),
        ("replies refused or missing", str(sum(len(record["refused"]) for record in trained))),
    ]
    caption = f"Accuracy of the global model on {evaluated_on(run.config)}; what follows it: of the last round."
    return [
        html.facts(known),
        html.table(caption, ["prediction", *columns], rows),
        *_matrix(run),
        html.heading("Over the rounds"),
        html.figures(_curves(run)),
        html.heading("Per class"),
        html.figures(_class_charts(run)),
    ]


def _matrix(run: RunFiles) -> list[str]:
    if not run.matrix:
        return []
    source = calibrated_on(run.config)
    how = f"Rules and temperatures were chosen on {source}." if source else "There was no validation data to choose on."
    caption = f"Every subset of the modalities, on {evaluated_on(run.config)}. {explanation(run.matrix)}"
    return [
        html.heading("Accuracy matrix"),
        html.table(caption, *matrix_table(run.matrix)),
        html.paragraph(f"{how} The model card, {CARD}, has the accuracy of each class."),
    ]


def modality_colours(modalities: Sequence[str]) -> dict[str, str]:
    """Return a colour for every modality, the same in all charts."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(modalities)}


def _curves(run: RunFiles) -> list[Chart]:
    rounds = [record["round"] for record in run.records]
    caption = f"On {evaluated_on(run.config)}; dashed: the self heads."
    accuracy = partial(draw_lines, ylabel=accuracy_label(run.config), limits=(0, 100))
    over_rounds = partial(accuracy, lines=_accuracy_lines(run, rounds), xlabel="round")
    lines = _accuracy_lines(run, cumulative_megabytes(run.records))
    over_bytes = partial(accuracy, lines=lines, xlabel="MB (10⁶ bytes)")
    sent = "Sent to and received from all nodes until then."
    names = list(dict.fromkeys(name for record in run.trained for name in record["losses"]))
    steps = [record["round"] for record in run.trained]
    terms = [
        Line(name, steps, _column(run.trained, "losses", name), BLACK if i == 0 else COLOURS[(i - 1) % len(COLOURS)])
        for i, name in enumerate(names)
    ]
    losses = partial(draw_lines, lines=terms, xlabel="round", ylabel="loss (nats)", limits=(0, None))
    return [
        chart("accuracy-over-rounds", "", "Accuracy over rounds", caption, 3.4, over_rounds),
        chart("accuracy-over-bytes", "", "Accuracy over bytes", sent, 3.4, over_bytes),
        chart("losses", "", "Loss terms over rounds", "Mean over the nodes' samples, without weights.", 3.4, losses),
    ]


def _accuracy_lines(run: RunFiles, x: Any) -> list[Line]:  # noqa: ANN401
    subsets = [name.rpartition(" ")[0] for name in run.records[0]["accuracy"]]
    colours = modality_colours([*run.modalities, *(name for name in subsets if "+" in name)])
    return [
        Line(name, x, 100 * _column(run.records, "accuracy", name), colours.get(subset, BLACK), is_head(name))
        for name, subset in zip(run.records[0]["accuracy"], subsets, strict=True)
    ]


def _column(records: Sequence[Record], key: str, name: str) -> NDArray[np.float64]:
    """Return one figure of every round; NaN where it is null or missing."""
    return np.array([record[key].get(name) for record in records], dtype=float)


def _class_charts(run: RunFiles) -> list[Chart]:
    charts = []
    for name in run.records[0]["accuracy"]:
        values = class_accuracy(run.records, name)
        draw = partial(
            draw_heat_map,
            values=values,
            rows=run.classes,
            xlabel="round",
            label="accuracy (%)",
            limits=(0.0, 100.0),
            start=run.records[0]["round"],
        )
        caption = f"Accuracy of each class on {evaluated_on(run.config)}; grey: the class has no sample."
        charts.append(chart("class-accuracy", name, f"Classes: {name}", caption, heat_map_height(len(values)), draw))
    return charts


def _dominance(run: RunFiles) -> list[str]:
    if not any(record["measured"]["dominant"] for record in run.trained):
        return [html.heading("Dominance"), html.paragraph(NO_TEMPERATURES)]
    return [html.heading("Dominance"), html.figures([_dominance_chart(run), *_temperature_charts(run)])]


def _per_class(run: RunFiles, key: str, modality: str) -> NDArray[np.float64]:
    """Return what was measured of a modality, [rounds, classes]; NaN where it was not weak."""
    blank = [None] * len(run.classes)
    return np.array([record["measured"][key].get(modality, blank) for record in run.trained], dtype=float)


def _logarithm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln of what is above 0; NaN for the others, which no axis can show."""
    return np.log(np.where(values > 0, values, np.nan))


def _weak(run: RunFiles) -> list[str]:
    return [name for name in run.modalities if any(name in record["measured"]["ratio"] for record in run.trained)]


def _dominance_chart(run: RunFiles) -> Chart:
    draw = partial(
        draw_dominance,
        rounds=[record["round"] for record in run.trained],
        strips=[
            ("measured", [record["measured"]["dominant"] for record in run.trained]),
            ("teacher", [record["teacher"] for record in run.trained]),
        ],
        ratios=[(name, _logarithm(_per_class(run, "ratio", name))) for name in _weak(run)],
        colours=modality_colours(run.modalities),
    )
    caption = (
        "Top: the dominant modality that a round measured, and the one that the server named as teacher for that "
        "round. Bottom: mean and range over the classes of how far a weak modality is behind; below 0 it is ahead."
    )
    return chart("dominance", "", "Dominance over rounds", caption, 3.8, draw)


def _temperature_charts(run: RunFiles) -> list[Chart]:
    values = {name: _per_class(run, "temperature", name).T for name in _weak(run)}
    found = np.concatenate([value[np.isfinite(value)] for value in values.values()])
    limits = (float(found.min(initial=1.0)), float(found.max(initial=1.0)))
    charts = []
    for name, value in values.items():
        draw = partial(
            draw_heat_map,
            values=value,
            rows=run.classes,
            xlabel="round",
            label="class temperature",
            limits=limits,
            start=run.trained[0]["round"],
            colours="plasma",
        )
        caption = "Below 1 its teacher is sharper; grey: it was not weak, or the class was not measured."
        charts.append(chart("temperature", name, f"Temperatures: {name}", caption, heat_map_height(len(value)), draw))
    return charts


def _nodes(run: RunFiles) -> list[str]:
    owned: dict[str, Sequence[str]] = {}
    examples: dict[str, int] = {}
    for record in run.trained:
        owned |= record["known_nodes"]
        examples |= record.get("examples", {})
    nodes = sorted(owned, key=int)
    draw = partial(
        draw_nodes,
        nodes=nodes,
        owned=[owned[node] for node in nodes],
        examples=[examples.get(node) for node in nodes],
        colours=modality_colours(run.modalities),
    )
    caption = f"What each node owns, and the training samples that it said it has.{_unknown(run, nodes, examples)}"
    made = chart("nodes", "", "Modalities and samples of the nodes", caption, 2.4 + 0.35 * len(run.modalities), draw)
    return [html.heading("Nodes"), html.figures([made]), *_failed(run.trained), *_refused(run.trained)]


def _unknown(run: RunFiles, nodes: Sequence[str], examples: Mapping[str, int]) -> str:
    if not any("examples" in record for record in run.trained):
        return " The run was made by a version that did not note the samples of each node."
    silent = sum(node not in examples for node in nodes)
    if not silent:
        return ""
    return f" {silent} of {len(nodes)} never sent a reply that was used, so their samples are not known."


def _failed(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = failed_rounds(trained)
    return [html.heading("Rounds that failed and left the model as it was", 3), html.bullets(lines)] if lines else []


def _refused(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"round {record['round']}: {line}" for record in trained for line in record["refused"]]
    if not lines:
        return [html.paragraph("No reply was refused or missing.")]
    return [html.heading("Replies refused or missing", 3), html.bullets(lines)]
