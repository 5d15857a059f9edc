"""The page of a bench: for each setting a table, charts over the seeds, and what differs between the runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedcmi_flwr.evaluate import is_head
from server_app import html_page as html
from server_app.bench_table import mean_and_interval
from server_app.charts import (
    BLACK,
    COLOURS,
    GREY,
    Chart,
    Line,
    chart,
    draw_heat_map,
    draw_intervals,
    draw_lines,
    heat_map_height,
)
from server_app.report import LAST_ROUNDS
from server_app.run_page import class_accuracy, cumulative_megabytes
from server_app.run_reader import ReportError, read_run
from server_app.settings_tables import as_text, environment_table, settings_tables, shared_and_different

_COLUMNS = {"setting", "method", "seed", "prediction", "accuracy", "best"}
_DECIDED = ("seed", "run-dir", "server")
"""Keys of config.json that are no setting of a bench."""


@dataclass(frozen=True)
class Curves:
    """What the charts need of one run; the prediction is the first of the table."""

    accuracy: NDArray[np.float64]
    """[rounds], in %."""
    megabytes: NDArray[np.float64]
    """[rounds], sent and received until then."""
    classes: NDArray[np.float64]
    """[classes], in %, mean of the last rounds."""


@dataclass(frozen=True)
class Setting:
    """One setting of a bench."""

    name: str
    results: pd.DataFrame
    """Rows of results.csv, without the self heads."""
    curves: Mapping[str, Sequence[Curves]]
    """Method -> one per seed."""
    configs: Mapping[str, Mapping[str, Any]]
    """Method -> config.json of its first seed, without what a bench decides."""
    servers: Sequence[Mapping[str, Any]]
    """"server" of the config.json of all runs."""
    class_names: Sequence[str]

    @property
    def methods(self) -> list[str]:
        """In the order of results.csv; the first is the baseline."""
        return list(self.results["method"].unique())

    @property
    def predictions(self) -> list[str]:
        """In the order of results.csv; the first is the main one."""
        return list(self.results["prediction"].unique())

    def figures(self, method: str, prediction: str) -> "pd.Series[float]":
        """Return the accuracies of a method in %, by seed."""
        rows = self.results[(self.results["method"] == method) & (self.results["prediction"] == prediction)]
        return rows.set_index("seed")["accuracy"] * 100


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
        No results.csv, or it does not fit the run directories.
    """
    results = _read_results(directory / "results.csv")
    settings = [_read_setting(directory, str(name), results) for name in results["setting"].unique()]
    colours = _colours(settings)
    parts = [part for setting in settings for part in _setting_parts(setting, colours)]
    servers = [server for setting in settings for server in setting.servers]
    return html.page(
        f"Bench {directory.absolute().name}: {', '.join(setting.name for setting in settings)}",
        *_unfinished(directory),
        *parts,
        *_settings(settings),
        *_nodes(directory / "bench.json"),
        environment_table({"server": server} for server in servers),
    )


def _read_results(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ReportError(f"{path}: no such file; it is written when a bench ends. Call `fedcmi bench` again to go on.")
    try:
        texts, blank = {"setting": str, "method": str, "prediction": str}, {"accuracy": [""], "best": [""]}
        results = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=blank)
        results = results.astype({"seed": int, "accuracy": float, "best": float})
    except (ValueError, KeyError) as error:
        raise ReportError(
            f"{path}: not a table of results ({error}); delete it and call `fedcmi bench` again."
        ) from error
    missing = sorted(_COLUMNS - set(results.columns))
    if missing or results.empty:
        found = f"column {missing[0]!r} is missing" if missing else "holds no row"
        raise ReportError(f"{path}: {found}; delete it and call `fedcmi bench` again.")
    return results


def _read_setting(directory: Path, name: str, results: pd.DataFrame) -> Setting:
    rows = results[(results["setting"] == name) & ~results["prediction"].map(is_head)]
    main = str(rows["prediction"].iloc[0])
    curves: dict[str, list[Curves]] = {}
    configs: dict[str, dict[str, Any]] = {}
    servers, classes = [], list[str]()
    for method, seed in rows[["method", "seed"]].drop_duplicates().itertuples(index=False):
        run = read_run(directory / name / method / f"seed{seed}")
        curves.setdefault(method, []).append(_curves(run.records, main))
        configs.setdefault(method, {key: value for key, value in run.config.items() if key not in _DECIDED})
        servers.append(run.config.get("server", {}))
        classes = run.classes
    lengths = {len(curve.accuracy) for group in curves.values() for curve in group}
    if len(lengths) > 1:
        raise ReportError(f"{directory / name}: its runs have {sorted(lengths)} rounds; call `fedcmi bench` again.")
    return Setting(name, rows, curves, configs, servers, classes)


def _curves(records: Sequence[Mapping[str, Any]], prediction: str) -> Curves:
    accuracy = np.array([record["accuracy"][prediction] for record in records], dtype=float)
    last = [record for record in records if record["round"] > 0][-LAST_ROUNDS:]
    classes = class_accuracy(last, prediction).mean(axis=1)
    return Curves(100 * accuracy, cumulative_megabytes(records), classes)


def _colours(settings: Sequence[Setting]) -> dict[str, str]:
    """Give the baseline black and the methods with the highest mean accuracy the colours; the others are grey."""
    main = pd.concat([setting.results[setting.results["prediction"] == setting.predictions[0]] for setting in settings])
    order = list(dict.fromkeys(method for setting in settings for method in setting.methods))
    means = main.groupby("method")["accuracy"].mean()
    best = sorted(order[1:], key=lambda method: -means[method])[: len(COLOURS)]
    shown = [method for method in order[1:] if method in best]
    return {**dict.fromkeys(order, GREY), order[0]: BLACK, **dict(zip(shown, COLOURS, strict=False))}


def _setting_parts(setting: Setting, colours: Mapping[str, str]) -> list[str]:
    return [html.heading(setting.name), _table(setting), html.figures(_charts(setting, colours))]


def _table(setting: Setting) -> str:
    best = {
        prediction: pd.Series([setting.figures(method, prediction).mean() for method in setting.methods]).max()
        for prediction in setting.predictions
    }
    rows = []
    for method in setting.methods:
        seeds = str(setting.results[setting.results["method"] == method]["seed"].nunique())
        cells = [_cell(setting, method, prediction, best[prediction]) for prediction in setting.predictions]
        rows.append([method, seeds, *cells])
    caption = (
        f"Accuracy in %, mean of the last {LAST_ROUNDS} rounds over the seeds ± 95 % interval; "
        f"in brackets points over {setting.methods[0]} with the same seeds. The highest mean stands out."
    )
    return html.table(caption, ["method", "seeds", *setting.predictions], rows)


def _cell(setting: Setting, method: str, prediction: str, best: float) -> str:
    own, baseline = setting.figures(method, prediction), setting.figures(setting.methods[0], prediction)
    text = _interval(own, ".1f")
    shared = (own - baseline).dropna()
    if method != setting.methods[0] and len(shared):
        text += f" ({_interval(shared, '+.1f')})"
    return html.Strong(text) if own.mean() == best else text


def _interval(values: "pd.Series[float]", form: str) -> str:
    mean, half = _known_mean(values)
    if np.isnan(mean):
        return "-"
    return f"{mean:{form}}" if np.isnan(half) else f"{mean:{form}} ± {half:.1f}"


def _known_mean(values: "pd.Series[float]") -> tuple[float, float]:
    """Return mean and half-width over the seeds that have a number; NaN where there is none."""
    known = values.dropna().tolist()
    return mean_and_interval(known) if known else (np.nan, np.nan)


def _charts(setting: Setting, colours: Mapping[str, str]) -> list[Chart]:
    main = setting.predictions[0]
    others = sum(colours[method] == GREY for method in setting.methods)
    caption = f"Prediction: {main}. Mean over the seeds with 95 % intervals"
    caption += f"; grey: the {others} other methods, without intervals." if others else "."
    draw = partial(draw_lines, ylabel="test accuracy (%)", limits=(0, 100))
    over_rounds = partial(draw, lines=_lines(setting, colours, False), xlabel="round")
    over_bytes = partial(draw, lines=_lines(setting, colours, True), xlabel="MB (10⁶ bytes), sent and received")
    return [
        _interval_chart(setting),
        _class_chart(setting, main),
        chart("accuracy-over-rounds", setting.name, "Accuracy over rounds", caption, 3.6, over_rounds),
        chart("accuracy-over-bytes", setting.name, "Accuracy over bytes", caption, 3.6, over_bytes),
    ]


def _lines(setting: Setting, colours: Mapping[str, str], over_bytes: bool) -> list[Line]:
    """Return a line a method, those in grey at the end, since they are drawn first."""
    lines = []
    for method in sorted(setting.methods, key=lambda name: colours[name] == GREY):
        curves, colour = setting.curves[method], colours[method]
        values = np.array([curve.accuracy for curve in curves])
        x = np.mean([curve.megabytes for curve in curves], axis=0) if over_bytes else np.arange(values.shape[1])
        shown = colour != GREY and len(curves) > 1
        half = [mean_and_interval(column.tolist())[1] for column in values.T] if shown else None
        lines.append(Line(method if colour != GREY else "others", x, values.mean(axis=0), colour, half=half))
    return lines


def _interval_chart(setting: Setting) -> Chart:
    shape = (len(setting.methods), len(setting.predictions))
    pairs = [
        _known_mean(setting.figures(method, prediction))
        for method in setting.methods
        for prediction in setting.predictions
    ]
    means, halves = (np.array(column).reshape(shape) for column in zip(*pairs, strict=True))
    draw = partial(draw_intervals, rows=setting.methods, means=means, halves=halves, names=setting.predictions)
    caption = "Mean over the seeds with 95 % intervals."
    height = 1.1 + 0.3 * len(setting.methods)
    return chart("intervals", setting.name, "Accuracy of the methods", caption, height, draw)


def _class_chart(setting: Setting, prediction: str) -> Chart:
    values = np.array([np.mean([c.classes for c in setting.curves[method]], axis=0) for method in setting.methods])
    draw = partial(
        draw_heat_map,
        values=values,
        rows=setting.methods,
        xlabel="class",
        label="accuracy (%)",
        limits=(0.0, 100.0),
        columns=setting.class_names,
    )
    caption = f"Prediction: {prediction}. Mean of the last {LAST_ROUNDS} rounds over the seeds."
    height = heat_map_height(len(values))
    return chart("class-accuracy", setting.name, "Accuracy of each class", caption, height, draw)


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
