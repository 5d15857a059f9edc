"""The table of a suite.

Rows over sets, mean, rank, paired differences over seeds and over sets, and what failed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.bench.comparison import OWN, Comparison, read_comparison, refused_replies
from server_app.bench.experiments import Experiment
from server_app.figures.markdown import markdown_table
from server_app.figures.statistics import MAIN, interval_text, mean_and_interval, seeds_text
from server_app.run.records import LAST_ROUNDS

FILE = "suite.md"
"""Beside table.md."""
ALONE = "each modality alone"
WORST = "worst class"
WORST_NODE = "worst node"


@dataclass(frozen=True)
class SuiteResults:
    """What a suite's runs gave."""

    figures: Mapping[str, pd.DataFrame]
    """Name of a figure -> its values in %, one line per (setting, seed), one column per row;
    NaN: none."""
    sets: Mapping[str, str]
    """Setting -> set, of those that were to be run."""
    comparison: Comparison
    seeds: int
    """How many each row of each setting was to have."""

    @property
    def whole(self) -> list[str]:
        """Rows that have every seed of every setting: only their means over sets mean the same."""
        fused = self.figures[MAIN]
        expected = len(self.sets) * self.seeds
        return [
            row
            for row in self.comparison.rows
            if row in fused and fused[row].notna().sum() == expected
        ]


def suite_figures(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return what is compared.

    Accuracies, fused and the mean of each modality alone, and the worst class and node.

    Parameters
    ----------
    results
        Lines of results.csv, of all settings.

    Returns
    -------
    As in :class:`SuiteResults`; a figure that no run has is left out.
    """
    fused = results[results["prediction"] == MAIN]
    names = results["prediction"]
    alone = results[names.str.endswith(" only") & ~names.str.contains("+", regex=False)]
    parts = {
        MAIN: (fused, "accuracy"),
        ALONE: (alone, "accuracy"),
        WORST: (fused, "worst_class"),
        WORST_NODE: (fused, "worst_node"),
    }
    tables = {}
    for name, (lines, column) in parts.items():
        values = lines.dropna(subset=[column])
        if not values.empty:
            tables[name] = 100 * values.pivot_table(
                index=["setting", "seed"], columns="method", values=column, aggfunc="mean"
            )

    return tables


def suite_table(found: SuiteResults, failed: Mapping[str, str]) -> str:
    """Return the table in Markdown.

    Parameters
    ----------
    found
        The figures.
    failed
        Name of a run that did not finish -> why.

    Returns
    -------
    A table over sets for each figure, differences to the baseline, OWN against the best other
    row, and failures.
    """
    sets = list(dict.fromkeys(found.sets.values()))
    lines = [
        f"{len(sets)} sets, {len(found.sets)} settings ({', '.join(found.sets)}), "
        f"{seeds_text(found.seeds)}. Mean of the last {LAST_ROUNDS} rounds, in %; of a set over "
        "its settings and seeds, ± 95 % interval over seeds. Rank: mean over settings, 1 is "
        "best. Mean and rank only of rows that have every run.",
        "",
    ]
    for name in found.figures:
        lines += [*_over_sets(found, name, sets), ""]

    return "\n".join([*lines, *_differences(found), "", *_against_best(found), *_failures(failed)])


def _over_sets(found: SuiteResults, figure: str, sets: Sequence[str]) -> list[str]:
    values, whole = found.figures[figure], found.whole
    rows = [row for row in found.comparison.rows if row in values]
    means = {row: _by_set(values[row], found.sets) for row in rows}
    settings = values.groupby("setting").mean()
    ranks = (
        settings[[row for row in whole if row in settings]]
        .rank(axis="columns", ascending=False)
        .mean()
    )
    lines = []

    for row in rows:
        cells = [_set_cell(found, values[row], name) for name in sets]
        mean = f"{means[row].mean():.1f}" if row in whole else "-"
        rank = f"{ranks[row]:.1f}" if row in whole else "-"
        lines.append([row, *cells, mean, rank])

    return markdown_table([figure, *sets, "mean", "rank"], lines)


def _set_cell(found: SuiteResults, values: pd.Series, name: str) -> str:
    """Return a row's mean over the settings of a set, with its interval over seeds.

    And the runs where some miss.
    """
    own = values[
        [found.sets[setting] == name for setting in values.index.get_level_values("setting")]
    ].dropna()
    expected = sum(of == name for of in found.sets.values()) * found.seeds
    if len(own) < expected:
        return f"{own.mean():.1f} ({len(own)} of {expected} runs)" if len(own) else "-"

    return interval_text(own.groupby("seed").mean().tolist(), ".1f")


def _by_set(values: pd.Series, sets: Mapping[str, str]) -> pd.Series:
    """Return the mean of each set: of its settings' means over seeds."""
    of_settings = values.dropna().groupby("setting").mean()
    return of_settings.groupby([sets[setting] for setting in of_settings.index]).mean()


def _differences(found: SuiteResults) -> list[str]:
    """Return how every row does against the baseline, run by run: the same setting and seed."""
    baseline, lines = found.comparison.baseline, list[list[str]]()
    for figure, values in found.figures.items():
        if baseline not in values:
            continue
        for row in (row for row in found.comparison.rows if row in values and row != baseline):
            difference = (values[row] - values[baseline]).dropna()
            lines.append([figure, row, *_difference_cells(difference, found)])

    if not lines:
        return [f"No run of {baseline} finished: nothing to take differences to."]

    head = ["figure", f"points over {baseline}", "over seeds", "over sets", "won", "lost", "runs"]
    about = (
        "Paired differences in points, ± 95 % interval: over seeds (each the mean of all "
        "settings) and over sets (each the mean of its settings and seeds). Won, lost: settings; "
        "in brackets those whose interval over seeds excludes 0."
    )

    return [about, "", *markdown_table(head, lines)]


def _difference_cells(difference: pd.Series, found: SuiteResults) -> list[str]:
    settings = difference.groupby("setting").mean()
    by_seed = (
        difference.unstack("setting")
        .reindex(columns=list(found.sets))
        .dropna()
        .mean(axis="columns")
    )
    over_seeds = interval_text(by_seed.tolist(), "+.1f")
    over_sets = interval_text(_by_set(difference, found.sets).tolist(), "+.1f")
    clear = {setting: clear_sign(difference[setting].tolist()) for setting in settings.index}
    cells = []

    for sign in (1, -1):
        beyond = sum(each == sign for each in clear.values())
        cells.append(f"{int((np.sign(settings) == sign).sum())} ({beyond})")

    return [over_seeds, over_sets, *cells, f"{len(difference)} of {len(found.sets) * found.seeds}"]


def clear_sign(differences: Sequence[float]) -> int:
    """Return the sign of a mean difference whose interval excludes 0.

    Parameters
    ----------
    differences
        One for each seed.

    Returns
    -------
    -1, 0 or 1; 0 where the interval holds it, and so for one seed, which has none.

    Examples
    --------
    >>> clear_sign([1.0, 1.2, 0.9]), clear_sign([-1.0, 1.2, 0.9]), clear_sign([3.0])
    (1, 0, 0)
    """
    mean, half = mean_and_interval(differences)
    return int(np.sign(mean)) if abs(mean) > half else 0


def _against_best(found: SuiteResults) -> list[str]:
    """Return OWN's differences to the best other row of each setting."""
    lines, means = list[list[str]](), dict[str, list[float]]()
    for figure, values in found.figures.items():
        others = [
            row
            for row in found.comparison.rows
            if row in values and row not in {OWN, *found.comparison.own}
        ]
        if OWN not in values or not others:
            continue

        for setting in found.sets:
            part = values[values.index.get_level_values("setting") == setting]
            same = part[part[OWN].notna()]
            complete = same[others].dropna(axis="columns")
            if same.empty or complete.empty:
                continue

            best = str(complete.mean().idxmax())
            difference = (same[OWN] - same[best]).tolist()
            lines.append([figure, setting, best, interval_text(difference, "+.1f")])
            means.setdefault(figure, []).append(float(np.mean(difference)))

    if not lines:
        return []

    summary = [
        f"{name}: {np.mean(of):+.1f} on average, {min(of):+.1f} at worst"
        for name, of in means.items()
    ]
    about = (
        f"{OWN} against the best other row of each setting, which is chosen by these very runs; "
        f"rows that lack a seed take no part. {'; '.join(summary)} (points)."
    )

    return [
        about,
        "",
        *markdown_table(["figure", "setting", "best other row", "points over it"], lines),
        "",
    ]


def _failures(failed: Mapping[str, str]) -> list[str]:
    if not failed:
        return ["Every run finished."]
    return [
        f"{len(failed)} runs did not finish:",
        "",
        *(f"- {name}: {reason}" for name, reason in failed.items()),
    ]


def failures(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Return the runs that did not finish, and the first line of why; what never ran says so."""
    found = {}
    for experiment in (each for each in experiments if not each.finished):
        error, log = experiment.run_dir / "error.txt", experiment.run_dir / "log.txt"
        text = error if error.is_file() else log
        said = text.read_text(encoding="utf-8").split("\n") if text.is_file() else []
        chosen = said if text == error else reversed(said)
        found[experiment.name] = next((line for line in chosen if line.strip()), "not run")

    return found


def write_suite(experiments: Sequence[Experiment], sets: Mapping[str, str], out: Path) -> str:
    """Write suite.md below ``out``, from what :func:`server_app.bench.table.write_results` wrote
    there.

    Parameters
    ----------
    experiments
        The bench.
    sets
        Setting -> set.
    out
        The bench directory.

    Returns
    -------
    The table.
    """
    results, comparison = pd.read_csv(out / "results.csv"), read_comparison(out)
    seeds = len({experiment.seed for experiment in experiments})
    found = SuiteResults(suite_figures(results), sets, comparison, seeds)
    refused = refused_replies(results, comparison.rows)
    text = "\n\n".join([suite_table(found, failures(experiments)), *([refused] if refused else [])])
    write_atomically(out / FILE, text + "\n")

    return text
