"""The figures of a bench: one line per run and prediction, and a table per setting with intervals over seeds."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fedcmi_flwr.evaluate import is_head
from server_app.experiments import Experiment
from server_app.plots import Band, plot_bench
from server_app.report import LAST_ROUNDS, final_accuracy, read_metrics

CONFIDENCE = 0.95
"""Of every interval over seeds."""
MAIN = "fused"
"""The prediction that targets and best rounds are about."""
OWN = "fedcmi-plus"
"""The row that is compared with the best other row, and the method of the rows that are variations of it."""
COLUMNS = [
    "setting",
    "method",
    "seed",
    "prediction",
    "accuracy",
    "best",
    "best_round",
    "rounds_to_target",
    "megabytes_to_target",
]
"""Of results.csv; ``method`` is the row's name."""

Records = Sequence[Mapping[str, Any]]
Run = tuple[Experiment, Records]


@dataclass(frozen=True)
class Comparison:
    """How the rows of a table are compared."""

    rows: Sequence[str]
    """In the table's order."""
    baseline: str
    """The row that differences are taken to, over the same seeds."""
    targets: Mapping[str, float]
    """Setting -> fused accuracy in [0, 1] whose first round is looked for; NaN: none."""
    own: Collection[str] = (OWN,)
    """OWN and its variations: the rows that it is not compared with."""


def finished_runs(experiments: Sequence[Experiment]) -> list[Run]:
    """Return the finished experiments with the records of their rounds."""
    return [(experiment, read_metrics(experiment.run_dir)) for experiment in experiments if experiment.finished]


def choose_targets(runs: Sequence[Run], baseline: str, percent: float | None) -> dict[str, float]:
    """Return the target of each setting, in [0, 1].

    Parameters
    ----------
    runs
        From :func:`finished_runs`.
    baseline
        A row.
    percent
        The target of all settings; None: the baseline's mean final fused accuracy in each.

    Returns
    -------
    Setting -> target; NaN where no run of the baseline finished.
    """
    targets = {}
    for setting in dict.fromkeys(experiment.setting for experiment, _ in runs):
        chosen = [
            records for experiment, records in runs if (experiment.setting, experiment.row) == (setting, baseline)
        ]
        finals = [final_accuracy(records)[MAIN] for records in chosen]
        own = float(np.mean(finals)) if finals else float("nan")
        targets[setting] = own if percent is None else percent / 100
    return targets


def collect(runs: Sequence[Run], targets: Mapping[str, float]) -> pd.DataFrame:
    """Return one line per run and prediction, with COLUMNS.

    ``accuracy`` is the mean over the last rounds, ``best`` the highest of any round and ``best_round`` the first with
    it, all in [0, 1]. Only where the prediction is MAIN: the first round that reaches the target, and the megabytes
    sent to and received from nodes until then; NaN if none does.

    Parameters
    ----------
    runs
        From :func:`finished_runs`.
    targets
        From :func:`choose_targets`.

    Returns
    -------
    The lines, in the order of the runs.
    """
    lines = []
    for experiment, records in runs:
        for name, accuracy in final_accuracy(records).items():
            values = _over_rounds(records, name)
            first = int(np.argmax(np.where(np.isnan(values), -1, values)))
            reached = to_target(records, targets[experiment.setting]) if name == MAIN else (np.nan, np.nan)
            run = (experiment.setting, experiment.row, experiment.seed)
            lines.append((*run, name, accuracy, values[first], records[first]["round"], *reached))
    return pd.DataFrame(lines, columns=COLUMNS)


def _over_rounds(records: Records, prediction: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the accuracy of each round; NaN where no sample could be predicted."""
    return np.array([record["accuracy"][prediction] for record in records], dtype=np.float64)


def to_target(records: Records, target: float) -> tuple[float, float]:
    """Return the first round whose fused accuracy reaches the target, and the megabytes moved until then; else NaN.

    Parameters
    ----------
    records
        The rounds of a run.
    target
        In [0, 1].

    Returns
    -------
    Round and megabytes (10^6 bytes), down and up together.

    Examples
    --------
    >>> moved = {"bytes_down": {"7": 10**6}, "bytes_up": {}}
    >>> rounds = [{"round": t, "accuracy": {"fused": t / 4}, **moved} for t in (1, 2)]
    >>> to_target(rounds, 0.5)
    (2.0, 2.0)
    """
    moved = 0
    for record in records:
        moved += sum(record["bytes_down"].values()) + sum(record["bytes_up"].values())
        if record["accuracy"][MAIN] >= target:
            return float(record["round"]), moved / 1e6
    return float("nan"), float("nan")


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % confidence interval (Student's t); NaN width for one value.

    Parameters
    ----------
    values
        One figure per seed.

    Returns
    -------
    Mean and half-width.

    Examples
    --------
    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    count = len(values)
    if count < 2:
        return float(np.mean(values)), float("nan")
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / count**0.5


def table(results: pd.DataFrame, comparison: Comparison) -> str:
    """Return the bench's table in Markdown.

    Parameters
    ----------
    results
        From :func:`collect`.
    comparison
        Rows, baseline and targets.

    Returns
    -------
    An overview of all settings for each prediction; then one table per setting, each with a sentence on how OWN does
    against the best other row.
    """
    lines = [
        f"Accuracy in % (mean of the last {LAST_ROUNDS} rounds), 95 % intervals over seeds.",
        "",
        *_overview_lines(results, comparison.rows),
        f"For each setting, in brackets: points over {comparison.baseline} with the same seeds. Best round (its "
        f"accuracy and number), and rounds and MB (down and up) to the target: {MAIN}.",
        "",
    ]
    for setting in results["setting"].unique():
        part = results[results["setting"] == setting]
        lines += _setting_lines(part, comparison, comparison.targets[setting])
    return "\n".join(lines)


def _overview_lines(results: pd.DataFrame, rows: Sequence[str]) -> Iterator[str]:
    """Yield one table per prediction: rows over settings."""
    settings = list(results["setting"].unique())
    for prediction in _shown(results):
        yield f"| {prediction} | {' | '.join(settings)} |"
        yield "|---" * (len(settings) + 1) + "|"
        by_setting = [_by_seed(results[results["setting"] == setting], prediction) for setting in settings]
        for row in (row for row in rows if any(row in accuracies for accuracies in by_setting)):
            cells = [_accuracy_cell(accuracies, row, row) for accuracies in by_setting]
            yield f"| {row} | {' | '.join(cells)} |"
        yield ""


def _shown(results: pd.DataFrame) -> list[str]:
    return [name for name in results["prediction"].unique() if not is_head(name)]


def _setting_lines(part: pd.DataFrame, comparison: Comparison, target: float) -> Iterator[str]:
    predictions = _shown(part)
    rows = [row for row in comparison.rows if row in set(part["method"])]
    seeds = part["seed"].nunique()
    goal = f"target {100 * target:.1f} %" if target == target else f"no target: no run of {comparison.baseline}"
    yield f"### {part['setting'].iloc[0]} ({seeds} seeds, {goal})"
    yield ""
    yield f"| method | {' | '.join(predictions)} | best round | rounds to target | MB to target |"
    yield "|---" * (len(predictions) + 4) + "|"
    for row in rows:
        own = part[part["method"] == row]["seed"].nunique()
        name = row if own == seeds else f"{row} ({own} seeds)"
        cells = [_accuracy_cell(_by_seed(part, prediction), row, comparison.baseline) for prediction in predictions]
        yield f"| {name} | {' | '.join([*cells, *_main_cells(part, row)])} |"
    yield ""
    sentence = best_other(part, predictions, comparison.own)
    if sentence:
        yield from (sentence, "")


def _by_seed(part: pd.DataFrame, prediction: str) -> pd.DataFrame:
    """Return accuracies in %, one line per seed and one column per row."""
    return part[part["prediction"] == prediction].pivot(index="seed", columns="method", values="accuracy") * 100


def _accuracy_cell(accuracies: pd.DataFrame, row: str, baseline: str) -> str:
    if row not in accuracies:
        return "-"
    cell = _text(accuracies[row].dropna().tolist(), ".1f")
    if row == baseline or baseline not in accuracies:
        return cell
    return f"{cell} ({_text((accuracies[row] - accuracies[baseline]).dropna().tolist(), '+.1f')})"


def _main_cells(part: pd.DataFrame, row: str) -> list[str]:
    own = part[(part["method"] == row) & (part["prediction"] == MAIN)]
    reached = [_reached_text(own[column].tolist()) for column in ("rounds_to_target", "megabytes_to_target")]
    best = f"{100 * own['best'].mean():.1f} in {own['best_round'].mean():.0f}"
    return [best, *reached]


def _reached_text(values: Sequence[float]) -> str:
    reached = [value for value in values if value == value]
    if not reached:
        return "never"
    if len(reached) < len(values):
        return f"{np.mean(reached):.0f} ({len(reached)} of {len(values)})"
    return _text(reached, ".0f")


def _text(values: Sequence[float], form: str) -> str:
    """Return mean ± half-width; a dash without values, and no half-width for one value."""
    if not values:
        return "-"
    mean, half = mean_and_interval(values)
    return f"{mean:{form}}" if half != half else f"{mean:{form}} ± {half:{form.lstrip('+')}}"


def best_other(part: pd.DataFrame, predictions: Sequence[str], own: Collection[str]) -> str:
    """Return a sentence that compares OWN with the best other row of each prediction; empty if there is no other.

    Parameters
    ----------
    part
        The results of one setting.
    predictions
        What to compare.
    own
        Rows that are not compared with: OWN and its variations.

    Returns
    -------
    Paired differences in points, with their intervals.
    """
    found = []
    for prediction in predictions:
        accuracies = _by_seed(part, prediction)
        others = accuracies.drop(columns=[row for row in own if row in accuracies]).mean().dropna()
        if OWN in accuracies and len(others):
            best = str(others.idxmax())
            difference = _text((accuracies[OWN] - accuracies[best]).dropna().tolist(), "+.1f")
            found.append(f"{prediction} {difference} points ({best})")
    return f"{OWN} against the best other row: {', '.join(found)}." if found else ""


def write_results(experiments: Sequence[Experiment], baseline: str, percent: float | None, out: Path) -> str:
    """Write results.csv, table.md and a plot per setting below ``out``.

    Parameters
    ----------
    experiments
        The bench; what is not finished is left out.
    baseline
        The row that differences are taken to.
    percent
        As for :func:`choose_targets`.
    out
        The bench directory.

    Returns
    -------
    The table.

    Raises
    ------
    ValueError
        No run finished.
    """
    runs = finished_runs(experiments)
    if not runs:
        raise ValueError(f"{out}: no run finished; the logs are in {out}/*/*/seed*/log.txt.")
    targets = choose_targets(runs, baseline, percent)
    results = collect(runs, targets)
    results.to_csv(out / "results.csv", index=False)
    rows = list(dict.fromkeys(experiment.row for experiment in experiments))
    own = {experiment.row for experiment in experiments if experiment.config["method"] == OWN}
    text = table(results, Comparison(rows, baseline, targets, own))
    (out / "table.md").write_text(text, encoding="utf-8")
    for setting in targets:
        of_setting = [run for run in runs if run[0].setting == setting]
        plot_bench(bands(of_setting), setting, out / f"accuracy-{setting}.png")
    return text


def bands(runs: Sequence[Run]) -> dict[str, dict[str, Band]]:
    """Return what :func:`server_app.plots.plot_bench` draws: mean and interval over seeds in %, for each round.

    Parameters
    ----------
    runs
        Of one setting.

    Returns
    -------
    Prediction -> row -> (rounds, mean, half-width), each [rounds].
    """
    curves: dict[str, dict[str, list[Any]]] = {}
    for experiment, records in runs:
        for name in (name for name in records[-1]["accuracy"] if not is_head(name)):
            curves.setdefault(name, {}).setdefault(experiment.row, []).append(100 * _over_rounds(records, name))
    found: dict[str, dict[str, Band]] = {}
    for name, of_rows in curves.items():
        for row, seeds in of_rows.items():
            mean, half = np.array([mean_and_interval(values) for values in zip(*seeds, strict=True)]).T
            found.setdefault(name, {})[row] = (np.arange(len(mean)), mean, half)
    return found
