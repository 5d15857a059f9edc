"""The page of a bench.

For each setting a table, charts over the seeds, and what differs between the runs.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from server_app.bench.comparison import OWN, sentences
from server_app.bench.fairness import fairness_caption, fairness_cells
from server_app.bench.matrix import caption, read_matrices, subset_table
from server_app.bench.reader import Setting, read_settings
from server_app.figures.drawing import (
    BLACK,
    COLOURS,
    GREY,
    Line,
    draw_heat_map,
    draw_intervals,
    draw_lines,
    heat_map_height,
)
from server_app.figures.savers import Chart, svg_chart
from server_app.figures.statistics import (
    MAIN,
    accuracy_cell,
    by_seed,
    mean_curve,
    row_interval,
    seeds_of_rows,
)
from server_app.pages import html
from server_app.pages.run import accuracy_label
from server_app.pages.settings import (
    as_text,
    environment_table,
    settings_tables,
    shared_and_different,
)
from server_app.run.held_out import evaluated_on
from server_app.run.reader import ReportError
from server_app.run.records import LAST_ROUNDS


def bench_page(directory: Path) -> str:
    """Return the page of a bench.

    Parameters
    ----------
    directory
        The ``--out`` of ``fedcmi bench``.

    Returns
    -------
    HTML.

    Raises
    ------
    ReportError
        No results.csv or comparison.json, they do not fit the run directories, or `fedcmi tune`
        made the directory.
    """
    settings = read_settings(directory)
    colours = method_colours(settings, settings[0].comparison.baseline)
    matrices = read_matrices(directory)
    parts = [part for setting in settings for part in _setting_parts(setting, colours, matrices)]
    servers = [server for setting in settings for server in setting.servers]

    return html.page(
        f"Bench {directory.absolute().name}: {', '.join(setting.name for setting in settings)}",
        *_unfinished(directory),
        *parts,
        *_settings(settings),
        *_nodes(directory / "bench.json"),
        environment_table({"server": server} for server in servers),
    )


def method_colours(settings: Sequence[Setting], baseline: str) -> dict[str, str]:
    """Give the baseline black, and OWN and the methods with the highest mean accuracy the colours.

    Others are grey.
    """
    main = pd.concat(
        [setting.results[setting.results["prediction"] == MAIN] for setting in settings]
    )
    means = main.groupby("method")["accuracy"].mean()
    order = list(
        dict.fromkeys(
            method for setting in settings for method in setting.methods if method != baseline
        )
    )
    best = sorted(order, key=lambda method: (method != OWN, -means[method]))[: len(COLOURS)]
    shown = [method for method in order if method in best]

    return {
        **dict.fromkeys(order, GREY),
        baseline: BLACK,
        **dict(zip(shown, COLOURS, strict=False)),
    }


def _setting_parts(
    setting: Setting, colours: Mapping[str, str], matrices: pd.DataFrame
) -> list[str]:
    below = [
        html.paragraph(sentence) for sentence in sentences(setting.results, setting.comparison)
    ]
    tables = [_table(setting), *below, *_matrix_table(setting, matrices), _fairness_table(setting)]
    return [html.heading(setting.name), *tables, html.figures(_charts(setting, colours))]


def _matrix_table(setting: Setting, matrices: pd.DataFrame) -> list[str]:
    part = matrices[matrices["setting"] == setting.name]
    head, cells = subset_table(part, setting.methods)
    return (
        [html.table(f"Accuracy matrix, on {_evaluated_on(setting)}. {caption(part)}", head, cells)]
        if cells
        else []
    )


def _evaluated_on(setting: Setting) -> str:
    return " or ".join(dict.fromkeys(evaluated_on(config) for config in setting.configs.values()))


def _table(setting: Setting) -> str:
    columns = [_cells(setting, prediction) for prediction in setting.predictions]
    seeds = seeds_of_rows(setting.results)
    rows = [
        [method, str(len(seeds[method])), *cells]
        for method, *cells in zip(setting.methods, *columns, strict=True)
    ]
    caption = (
        f"Accuracy in % on {_evaluated_on(setting)}, mean of the last {LAST_ROUNDS} rounds over "
        f"the seeds ± 95 % interval; in brackets points over {setting.comparison.baseline} with "
        "the same seeds. The highest mean of the rows with all seeds stands out."
    )

    return html.table(caption, ["method", "seeds", *setting.predictions], rows)


def _cells(setting: Setting, prediction: str) -> list[str]:
    """Return the column of a prediction."""
    accuracies = by_seed(setting.results, prediction)
    means = accuracies[[method for method in accuracies if method in setting.whole]].mean()
    texts = {
        method: accuracy_cell(accuracies, method, setting.comparison.baseline)
        for method in setting.methods
    }

    return [
        html.Strong(text) if method in means and means[method] == means.max() else text
        for method, text in texts.items()
    ]


def _fairness_table(setting: Setting) -> str:
    names, cells = fairness_cells(setting.results, setting.methods, setting.comparison.baseline)
    caption = (
        f"Fairness, on {_evaluated_on(setting)}. {fairness_caption(setting.comparison.baseline)}"
    )
    return html.table(
        caption, ["method", *names], [[method, *cells[method]] for method in setting.methods]
    )


def _charts(setting: Setting, colours: Mapping[str, str]) -> list[Chart]:
    others = sum(colours[method] == GREY for method in setting.methods)
    caption = f"Prediction: {MAIN}. Mean over the seeds with 95 % intervals"
    caption += f"; grey: the {others} other methods, without intervals." if others else "."
    label = accuracy_label(next(iter(setting.configs.values())))
    draw = partial(draw_lines, ylabel=label, limits=(0, 100))
    over_rounds = partial(draw, lines=method_lines(setting, colours, False), xlabel="round")
    over_bytes = partial(
        draw, lines=method_lines(setting, colours, True), xlabel="MB (10⁶ bytes), sent and received"
    )

    return [
        _interval_chart(setting),
        _class_chart(setting),
        svg_chart(
            "accuracy-over-rounds", setting.name, "Accuracy over rounds", caption, 3.6, over_rounds
        ),
        svg_chart(
            "accuracy-over-bytes", setting.name, "Accuracy over bytes", caption, 3.6, over_bytes
        ),
    ]


def method_lines(setting: Setting, colours: Mapping[str, str], over_bytes: bool) -> list[Line]:
    """Return a line a method, as long as its runs.

    Those in grey at the end, since they are drawn first.
    """
    lines = []
    for method in sorted(setting.methods, key=lambda name: colours[name] == GREY):
        curves, colour = setting.curves[method], colours[method]
        mean, half = mean_curve([curve.accuracy for curve in curves])
        megabytes, _ = mean_curve([curve.megabytes for curve in curves])
        shown = half if colour != GREY and len(curves) > 1 else None
        x = megabytes if over_bytes else np.arange(len(mean))
        lines.append(Line(method if colour != GREY else "others", x, mean, colour, half=shown))

    return lines


def _interval_chart(setting: Setting) -> Chart:
    accuracies = [by_seed(setting.results, prediction) for prediction in setting.predictions]
    pairs = np.array(
        [[row_interval(found, method) for found in accuracies] for method in setting.methods]
    )
    means, halves = pairs[..., 0], pairs[..., 1]
    draw = partial(
        draw_intervals, rows=setting.labels, means=means, halves=halves, names=setting.predictions
    )
    caption = "Mean over the seeds with 95 % intervals."
    height = 1.1 + 0.3 * len(setting.methods)

    return svg_chart("intervals", setting.name, "Accuracy of the methods", caption, height, draw)


def _class_chart(setting: Setting) -> Chart:
    values = np.array(
        [np.mean([c.classes for c in setting.curves[method]], axis=0) for method in setting.methods]
    )
    draw = partial(
        draw_heat_map,
        values=values,
        rows=setting.labels,
        xlabel="class",
        label="accuracy (%)",
        limits=(0.0, 100.0),
        columns=setting.class_names,
    )
    caption = f"Prediction: {MAIN}. Mean of the last {LAST_ROUNDS} rounds over the seeds."
    height = heat_map_height(len(values))

    return svg_chart(
        "class-accuracy", setting.name, "Accuracy of each class", caption, height, draw
    )


def _unfinished(directory: Path) -> list[str]:
    logs = sorted(directory.glob("*/*/seed*/log.txt"))
    lines = [
        str(log.relative_to(directory)) for log in logs if not (log.parent / "summary.md").is_file()
    ]
    if not lines:
        return []

    return [
        html.heading("Runs that did not finish"),
        html.paragraph("Their logs say why:"),
        html.bullets(lines),
    ]


def _settings(settings: Sequence[Setting]) -> list[str]:
    named = [
        (setting.name, method, config)
        for setting in settings
        for method, config in setting.configs.items()
    ]
    shared, different = shared_and_different([config for _, _, config in named])
    rows = [
        [name, method, *(as_text(config.get(key)) for key in different if key != "method")]
        for name, method, config in named
    ]
    columns = ["setting", "method", *(key for key in different if key != "method")]
    table = html.table("What differs between the runs.", columns, rows)

    return [
        html.heading("Settings"),
        table,
        html.heading("What all runs have in common", 3),
        *settings_tables(shared),
    ]


def _nodes(path: Path) -> list[str]:
    if not path.is_file():
        return []

    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))["num-nodes"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path}: not written by `fedcmi bench` ({error!r}); use a bench directory."
        ) from error

    return [html.paragraph(f"Every run: {nodes} simulated nodes.")]
