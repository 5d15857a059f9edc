"""Reads what benches left on disk, and says what is wrong with it, where, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from server_app.bench.comparison import Comparison, read_comparison, shown_predictions
from server_app.figures.fairness import FIGURES
from server_app.figures.statistics import (
    MAIN,
    Floats,
    class_accuracy,
    cumulative_megabytes,
    over_rounds,
    seeds_of_rows,
    seeds_text,
)
from server_app.run.reader import ReportError, read_run
from server_app.run.records import last_rounds

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
        return {
            method for method, own in seeds.items() if len(own) == self.results["seed"].nunique()
        }

    @property
    def labels(self) -> list[str]:
        """The methods, with the number of seeds of those that do not have all."""
        seeds = seeds_of_rows(self.results)
        return [
            name if name in self.whole else f"{name} ({seeds_text(len(seeds[name]))})"
            for name in self.methods
        ]


def read_settings(directory: Path) -> list[Setting]:
    """Read the settings of a bench.

    Parameters
    ----------
    directory
        The ``--out`` of ``fedcmi bench``.

    Returns
    -------
    In the order of results.csv.

    Raises
    ------
    ReportError
        No results.csv or comparison.json, they do not fit the run directories, or `fedcmi tune`
        made the directory.
    """
    _refuse_tuning(directory)
    results, comparison = _read_results(directory / "results.csv"), read_comparison(directory)
    _check_rows(directory, results, comparison)

    return [
        read_setting(directory, str(name), results, comparison)
        for name in results["setting"].unique()
    ]


def _refuse_tuning(directory: Path) -> None:
    """Refuse what `fedcmi tune` leaves; its rows are called "fedprox@lr=0.1"."""
    made = (directory / "tune.csv").is_file() or any(directory.glob("*/*@*"))
    if made and not (directory / "results.csv").is_file():
        raise ReportError(
            f"{directory}: made by `fedcmi tune`, of which there is no page; look at tune.csv "
            "there for the scores and at tuned.toml for what was chosen (both are written when "
            "it ends)."
        )


def _check_rows(directory: Path, results: pd.DataFrame, comparison: Comparison) -> None:
    unknown = sorted(set(results["method"]) - set(comparison.rows))
    if unknown:
        raise ReportError(
            f"{directory / 'comparison.json'}: row {unknown[0]!r} of results.csv is missing; call "
            "`fedcmi bench` again: it keeps what is finished and writes both."
        )


def _read_results(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ReportError(
            f"{path}: no such file; it is written when a bench ends. Call `fedcmi bench` again to "
            "go on."
        )

    try:
        texts = {"setting": str, "method": str, "prediction": str}
        blank = {name: [""] for name in _NUMBERS}
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


def read_setting(
    directory: Path, name: str, results: pd.DataFrame, comparison: Comparison
) -> Setting:
    """Return a setting of results.csv with the curves of its runs."""
    rows = results[results["setting"] == name]
    curves: dict[str, list[Curves]] = {}
    configs: dict[str, dict[str, Any]] = {}
    servers, classes = [], list[str]()
    for method, seed in rows[["method", "seed"]].drop_duplicates().itertuples(index=False):
        run = read_run(directory / name / method / f"seed{seed}")
        curves.setdefault(method, []).append(_curves(run.records))
        configs.setdefault(
            method, {key: value for key, value in run.config.items() if key not in _DECIDED}
        )
        servers.append(run.config.get("server", {}))
        classes = run.classes

    return Setting(name, rows, comparison, curves, configs, servers, classes)


def _curves(records: Sequence[Mapping[str, Any]]) -> Curves:
    classes = class_accuracy(last_rounds(records), MAIN).mean(axis=1)
    return Curves(100 * over_rounds(records, MAIN), cumulative_megabytes(records), classes)
