"""The page of one run: result, charts, nodes, settings, environment."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fedcmi_flwr.models.file import CARD
from server_app.figures.drawing import draw_heat_map, draw_nodes, heat_map_height
from server_app.figures.run_drawings import (
    draw_accuracy,
    draw_losses,
    draw_measured_dominance,
    draw_temperatures,
    modality_colours,
)
from server_app.figures.savers import Chart, svg_chart
from server_app.figures.statistics import class_accuracy, cumulative_megabytes
from server_app.pages import html
from server_app.pages.fairness import fairness_section
from server_app.pages.settings import environment_table, settings_tables
from server_app.run.held_out import calibrated_on, evaluated_on
from server_app.run.matrix import explanation, matrix_table
from server_app.run.reader import RunFiles
from server_app.run.records import epsilon_spent, failed_rounds, megabytes
from server_app.run.summary import accuracy_table

NO_TEMPERATURES = (
    "No round measured a dominant modality or class temperatures (only methods that distil from "
    "it do), so there is no chart of them."
)


def run_page(run: RunFiles, refresh: int = 0) -> str:
    """Return the page of a run, as far as it came.

    Parameters
    ----------
    run
        What was read of it.
    refresh
        Seconds after which a browser reads the page again, while the run goes on; 0: never.

    Returns
    -------
    HTML.
    """
    reason = run.error.partition("\n")[0]
    failed = [html.failure(reason, run.error)] if run.error else []
    failed += [html.paragraph(f"Not finished: {run.unfinished}")] if run.unfinished else []
    if not run.config:
        return html.page("A run that failed before it began", *failed)

    title = f"{run.config['method']} on {run.config['data']}, seed {run.config['seed']}"
    rest = [html.heading("Settings"), *settings_tables(run.config), environment_table([run.config])]
    refresh = refresh if run.unfinished else 0
    if not run.trained:
        return html.page(
            title, *failed, html.paragraph("No round was trained."), *rest, refresh=refresh
        )

    parts = [*_results(run), *_dominance(run), *fairness_section(run), *_nodes(run), *rest]

    return html.page(title, *failed, *parts, refresh=refresh)


def accuracy_label(config: Mapping[str, Any]) -> str:
    """Return the label of an axis with accuracies in %, by what the run was evaluated on."""
    return f"{'validation' if config.get('validation-share') else 'test'} accuracy (%)"


def _results(run: RunFiles) -> list[str]:
    trained, last = run.trained, run.trained[-1]
    down, up = megabytes(trained)
    columns, cells = accuracy_table(run.records, run.config)
    rows = [[name, html.Strong(main), *others] for name, main, *others in cells]
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
    caption = (
        f"Accuracy of the global model on {evaluated_on(run.config)}; what follows it: of the "
        "last round."
    )

    return [
        html.facts(known),
        html.table(caption, columns, rows),
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
    how = (
        f"Rules and temperatures were chosen on {source}."
        if source
        else "There was no validation data to choose on."
    )
    caption = (
        f"Every subset of the modalities, on {evaluated_on(run.config)}. {explanation(run.matrix)}"
    )

    return [
        html.heading("Accuracy matrix"),
        html.table(caption, *matrix_table(run.matrix)),
        html.paragraph(f"{how} The model card, {CARD}, has the accuracy of each class."),
    ]


def _curves(run: RunFiles) -> list[Chart]:
    rounds = [record["round"] for record in run.records]
    megabytes = cumulative_megabytes(run.records)
    accuracy = partial(
        draw_accuracy, run.records, run.modalities, ylabel=accuracy_label(run.config)
    )
    over_rounds = accuracy(x=rounds, xlabel="round")
    over_bytes = accuracy(x=megabytes, xlabel="MB (10⁶ bytes)")

    caption = f"On {evaluated_on(run.config)}; dashed: the self heads."
    sent = "Sent to and received from all nodes until then."
    unweighted = "Mean over the nodes' samples, without weights."

    return [
        svg_chart("accuracy-over-rounds", "", "Accuracy over rounds", caption, 3.4, over_rounds),
        svg_chart("accuracy-over-bytes", "", "Accuracy over bytes", sent, 3.4, over_bytes),
        svg_chart(
            "losses", "", "Loss terms over rounds", unweighted, 3.4, draw_losses(run.trained)
        ),
    ]


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
        caption = (
            f"Accuracy of each class on {evaluated_on(run.config)}; grey: the class has no sample."
        )
        charts.append(
            svg_chart(
                "class-accuracy",
                name,
                f"Classes: {name}",
                caption,
                heat_map_height(len(values)),
                draw,
            )
        )

    return charts


def _dominance(run: RunFiles) -> list[str]:
    if not any(record["measured"]["dominant"] for record in run.trained):
        return [html.heading("Dominance"), html.paragraph(NO_TEMPERATURES)]
    return [
        html.heading("Dominance"),
        html.figures([_dominance_chart(run), *_temperature_charts(run)]),
    ]


def _dominance_chart(run: RunFiles) -> Chart:
    draw = draw_measured_dominance(run.trained, run.modalities, len(run.classes))
    caption = (
        "Top: the dominant modality that a round measured, and the one that the server named as "
        "teacher for that round. Bottom: mean and range over the classes of how far a weak "
        "modality is behind; below 0 it is ahead."
    )
    return svg_chart("dominance", "", "Dominance over rounds", caption, 3.8, draw)


def _temperature_charts(run: RunFiles) -> list[Chart]:
    caption = (
        "Below 1 teacher and student are both sharper; grey: it was not weak, or the class was "
        "not measured."
    )
    height = heat_map_height(len(run.classes))
    pictures = draw_temperatures(run.trained, run.modalities, run.classes)

    return [
        svg_chart("temperature", name, f"Temperatures: {name}", caption, height, draw)
        for name, draw in pictures.items()
    ]


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
    caption = (
        "What each node owns, and the training samples that it said it "
        f"has.{_unknown(run, nodes, examples)}"
    )
    made = svg_chart(
        "nodes",
        "",
        "Modalities and samples of the nodes",
        caption,
        2.4 + 0.35 * len(run.modalities),
        draw,
    )

    return [
        html.heading("Nodes"),
        html.figures([made]),
        *_failed(run.trained),
        *_refused(run.trained),
    ]


def _unknown(run: RunFiles, nodes: Sequence[str], examples: Mapping[str, int]) -> str:
    if not any("examples" in record for record in run.trained):
        return " The run was made by a version that did not note the samples of each node."

    silent = sum(node not in examples for node in nodes)
    if not silent:
        return ""

    return (
        f" {silent} of {len(nodes)} never sent a reply that was used, so their samples are not "
        "known."
    )


def _failed(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = failed_rounds(trained)
    return (
        [html.heading("Rounds that failed and left the model as it was", 3), html.bullets(lines)]
        if lines
        else []
    )


def _refused(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"round {record['round']}: {line}" for record in trained for line in record["refused"]]
    if not lines:
        return [html.paragraph("No reply was refused or missing.")]

    return [html.heading("Replies refused or missing", 3), html.bullets(lines)]
