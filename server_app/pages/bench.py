"""The page of a bench: for each setting a table, charts over the seeds, and what differs between the runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from server_app.bench.comparison import OWN, Comparison, read_comparison, sentences, shown_predictions
from server_app.bench.fairness import fairness_caption, fairness_cells
from server_app.bench.matrix import caption, read_matrices, subset_table
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
from server_app.figures.fairness import FIGURES
from server_app.figures.savers import Chart, svg_chart
from server_app.figures.statistics import (
    MAIN,
    Floats,
    accuracy_cell,
    by_seed,
    class_accuracy,
    cumulative_megabytes,
    mean_curve,
    over_rounds,
    row_interval,
    seeds_of_rows,
    seeds_text,
)
from server_app.pages import html
from server_app.pages.run import accuracy_label
from server_app.pages.settings import as_text, environment_table, settings_tables, shared_and_different
from server_app.run.held_out import evaluated_on
from server_app.run.reader import ReportError, read_run
from server_app.run.records import LAST_ROUNDS

_NUMBERS = ("accuracy", "best", "refused", *FIGURES)
_COLUMNS = {"setting", "method", "seed", "prediction", *_NUMBERS}
_DECIDED = ("seed", "run-dir", "server")
"""Keys of config.json that are no setting of a bench."""


@dataclass(frozen=True)
class Curves:
    """What the charts need of one run, of its main prediction."""

    accuracy: Floats
    """[rounds], in %."""
    megabytes: Floats
    """[rounds], sent and received until then."""
    classes: Floats
    """[classes], in %, mean of the last rounds."""


@dataclass(frozen=True)
class Setting:
    """One setting of a bench."""

    name: str
    results: pd.DataFrame
    """Rows of results.csv."""
    comparison: Comparison
    curves: Mapping[str, Sequence[Curves]]
    """Method -> one per seed."""
    configs: Mapping[str, Mapping[str, Any]]
    """Method -> config.json of its first seed, without what a bench decides."""
    servers: Sequence[Mapping[str, Any]]
    """"server" of the config.json of all runs."""
    class_names: Sequence[str]

    @property
    def methods(self) -> list[str]:
        """In the order of the bench's table."""
        return [row for row in self.comparison.rows if row in self.curves]

    @property
    def predictions(self) -> list[str]:
        """In the order of results.csv, without the self heads."""
        return shown_predictions(self.results)

    @property
    def whole(self) -> set[str]:
        """The methods that have all seeds of the setting."""
        seeds = seeds_of_rows(self.results)
        return {method for method, own in seeds.items() if len(own) == self.results["seed"].nunique()}

    @property
    def labels(self) -> list[str]:
        """The methods, with the number of seeds of those that do not have all."""
        seeds = seeds_of_rows(self.results)
        return [name if name in self.whole else f"{name} ({seeds_text(len(seeds[name]))})" for name in self.methods]


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
        No results.csv or comparison.json, they do not fit the run directories, or `fedcmi tune` made the directory.
    """
    _refuse_tuning(directory)
    results, comparison = _read_results(directory / "results.csv"), read_comparison(directory)
    _check_rows(directory, results, comparison)
    settings = [read_setting(directory, str(name), results, comparison) for name in results["setting"].unique()]
    colours = method_colours(settings, comparison.baseline)
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


def _refuse_tuning(directory: Path) -> None:
    """Refuse what `fedcmi tune` leaves; its rows are called "fedprox@lr=0.1"."""
    made = (directory / "tune.csv").is_file() or any(directory.glob("*/*@*"))
    if made and not (directory / "results.csv").is_file():
        raise ReportError(
            f"{directory}: made by `fedcmi tune`, of which there is no page; look at tune.csv there for the scores and "
            "at tuned.toml for what was chosen (both are written when it ends)."
        )


def _check_rows(directory: Path, results: pd.DataFrame, comparison: Comparison) -> None:
    unknown = sorted(set(results["method"]) - set(comparison.rows))
    if unknown:
        raise ReportError(
            f"{directory / 'comparison.json'}: row {unknown[0]!r} of results.csv is missing; call `fedcmi bench` "
            "again: it keeps what is finished and writes both."
        )


def _read_results(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ReportError(f"{path}: no such file; it is written when a bench ends. Call `fedcmi bench` again to go on.")
    try:
        texts, blank = (
            {"setting": str, "method": str, "prediction": str},
            {name: [""] for name in _NUMBERS},
        )
        results = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=blank)
        results = results.astype({"seed": int, **dict.fromkeys(_NUMBERS, float)})
    except (ValueError, KeyError) as error:
        raise ReportError(
            f"{path}: not a table of results ({error}); delete it and call `fedcmi bench` again."
        ) from error
    missing = sorted(_COLUMNS - set(results.columns))
    if missing or results.empty:
        found = f"column {missing[0]!r} is missing" if missing else "holds no row"
        raise ReportError(f"{path}: {found}; delete it and call `fedcmi bench` again.")
    return results


def read_setting(directory: Path, name: str, results: pd.DataFrame, comparison: Comparison) -> Setting:
    """Return a setting of results.csv with the curves of its runs."""
    rows = results[results["setting"] == name]
    curves: dict[str, list[Curves]] = {}
    configs: dict[str, dict[str, Any]] = {}
    servers, classes = [], list[str]()
    for method, seed in rows[["method", "seed"]].drop_duplicates().itertuples(index=False):
        run = read_run(directory / name / method / f"seed{seed}")
        curves.setdefault(method, []).append(_curves(run.records))
        configs.setdefault(method, {key: value for key, value in run.config.items() if key not in _DECIDED})
        servers.append(run.config.get("server", {}))
        classes = run.classes
    return Setting(name, rows, comparison, curves, configs, servers, classes)


def _curves(records: Sequence[Mapping[str, Any]]) -> Curves:
    last = [record for record in records if record["round"] > 0][-LAST_ROUNDS:]
    classes = class_accuracy(last, MAIN).mean(axis=1)
    return Curves(100 * over_rounds(records, MAIN), cumulative_megabytes(records), classes)


def method_colours(settings: Sequence[Setting], baseline: str) -> dict[str, str]:
    """Give the baseline black, and OWN and the methods with the highest mean accuracy the colours; others are grey."""
    main = pd.concat([setting.results[setting.results["prediction"] == MAIN] for setting in settings])
    means = main.groupby("method")["accuracy"].mean()
    order = list(dict.fromkeys(method for setting in settings for method in setting.methods if method != baseline))
    best = sorted(order, key=lambda method: (method != OWN, -means[method]))[: len(COLOURS)]
    shown = [method for method in order if method in best]
    return {**dict.fromkeys(order, GREY), baseline: BLACK, **dict(zip(shown, COLOURS, strict=False))}


def _setting_parts(setting: Setting, colours: Mapping[str, str], matrices: pd.DataFrame) -> list[str]:
    below = [html.paragraph(sentence) for sentence in sentences(setting.results, setting.comparison)]
    tables = [_table(setting), *below, *_matrix_table(setting, matrices), _fairness_table(setting)]
    return [html.heading(setting.name), *tables, html.figures(_charts(setting, colours))]


def _matrix_table(setting: Setting, matrices: pd.DataFrame) -> list[str]:
    part = matrices[matrices["setting"] == setting.name]
    head, cells = subset_table(part, setting.methods)
    return [html.table(f"Accuracy matrix, on {_evaluated_on(setting)}. {caption(part)}", head, cells)] if cells else []


def _evaluated_on(setting: Setting) -> str:
    return " or ".join(dict.fromkeys(evaluated_on(config) for config in setting.configs.values()))


def _table(setting: Setting) -> str:
    columns = [_cells(setting, prediction) for prediction in setting.predictions]
    seeds = seeds_of_rows(setting.results)
    rows = [[method, str(len(seeds[method])), *cells] for method, *cells in zip(setting.methods, *columns, strict=True)]
    caption = (
        f"Accuracy in % on {_evaluated_on(setting)}, mean of the last {LAST_ROUNDS} rounds over the seeds ± 95 % "
        f"interval; in brackets points over {setting.comparison.baseline} with the same seeds. The highest mean of the "
        "rows with all seeds stands out."
    )
    return html.table(caption, ["method", "seeds", *setting.predictions], rows)


def _cells(setting: Setting, prediction: str) -> list[str]:
    """Return the column of a prediction."""
    accuracies = by_seed(setting.results, prediction)
    means = accuracies[[method for method in accuracies if method in setting.whole]].mean()
    texts = {method: accuracy_cell(accuracies, method, setting.comparison.baseline) for method in setting.methods}
    return [
        html.Strong(text) if method in means and means[method] == means.max() else text
        for method, text in texts.items()
    ]


def _fairness_table(setting: Setting) -> str:
    names, cells = fairness_cells(setting.results, setting.methods, setting.comparison.baseline)
    caption = f"Fairness, on {_evaluated_on(setting)}. {fairness_caption(setting.comparison.baseline)}"
    return html.table(caption, ["method", *names], [[method, *cells[method]] for method in setting.methods])


def _charts(setting: Setting, colours: Mapping[str, str]) -> list[Chart]:
    others = sum(colours[method] == GREY for method in setting.methods)
    caption = f"Prediction: {MAIN}. Mean over the seeds with 95 % intervals"
    caption += f"; grey: the {others} other methods, without intervals." if others else "."
    label = accuracy_label(next(iter(setting.configs.values())))
    draw = partial(draw_lines, ylabel=label, limits=(0, 100))
    over_rounds = partial(draw, lines=method_lines(setting, colours, False), xlabel="round")
    over_bytes = partial(draw, lines=method_lines(setting, colours, True), xlabel="MB (10⁶ bytes), sent and received")
    return [
        _interval_chart(setting),
        _class_chart(setting),
        svg_chart("accuracy-over-rounds", setting.name, "Accuracy over rounds", caption, 3.6, over_rounds),
        svg_chart("accuracy-over-bytes", setting.name, "Accuracy over bytes", caption, 3.6, over_bytes),
    ]


def method_lines(setting: Setting, colours: Mapping[str, str], over_bytes: bool) -> list[Line]:
    """Return a line a method, as long as its runs; those in grey at the end, since they are drawn first."""
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
    pairs = np.array([[row_interval(found, method) for found in accuracies] for method in setting.methods])
    means, halves = pairs[..., 0], pairs[..., 1]
    draw = partial(draw_intervals, rows=setting.labels, means=means, halves=halves, names=setting.predictions)
    caption = "Mean over the seeds with 95 % intervals."
    height = 1.1 + 0.3 * len(setting.methods)
    return svg_chart("intervals", setting.name, "Accuracy of the methods", caption, height, draw)


def _class_chart(setting: Setting) -> Chart:
    values = np.array([np.mean([c.classes for c in setting.curves[method]], axis=0) for method in setting.methods])
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
    return svg_chart("class-accuracy", setting.name, "Accuracy of each class", caption, height, draw)


def _unfinished(directory: Path) -> list[str]:
    logs = sorted(directory.glob("*/*/seed*/log.txt"))
    lines = [str(log.relative_to(directory)) for log in logs if not (log.parent / "summary.md").is_file()]
    if not lines:
        return []
    return [html.heading("Runs that did not finish"), html.paragraph("Their logs say why:"), html.bullets(lines)]


def _settings(settings: Sequence[Setting]) -> list[str]:
    named = [(setting.name, method, config) for setting in settings for method, config in setting.configs.items()]
    shared, different = shared_and_different([config for _, _, config in named])
    rows = [
        [name, method, *(as_text(config.get(key)) for key in different if key != "method")]
        for name, method, config in named
    ]
    columns = ["setting", "method", *(key for key in different if key != "method")]
    table = html.table("What differs between the runs.", columns, rows)
    return [html.heading("Settings"), table, html.heading("What all runs have in common", 3), *settings_tables(shared)]


def _nodes(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))["num-nodes"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: not written by `fedcmi bench` ({error!r}); use a bench directory.") from error
    return [html.paragraph(f"Every run: {nodes} simulated nodes.")]
