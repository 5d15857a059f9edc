"""The numbers of a suite's table, by hand."""

from pathlib import Path

import pandas as pd
import pytest

from server_app.bench.comparison import Comparison
from server_app.bench.experiments import plan
from server_app.bench.suite_table import ALONE, SuiteResults, failures, suite_figures, suite_table
from server_app.bench.table import COLUMNS

SETS = {"a-all": "a", "a-half": "a", "b-all": "b"}
FUSED = {
    ("a-all", "fedavg"): (0.50, 0.52), ("a-all", "fedcmi-plus"): (0.55, 0.57),
    ("a-half", "fedavg"): (0.40, 0.42), ("a-half", "fedcmi-plus"): (0.41, 0.43),
    ("b-all", "fedavg"): (0.80, 0.84), ("b-all", "fedcmi-plus"): (0.70, 0.75),
}  # fmt: skip
"""(setting, row) -> fused accuracy of both seeds."""


def _results(
    values: dict[tuple[str, str], tuple[float, ...]], prediction: str = "fused"
) -> pd.DataFrame:
    lines = []
    for (setting, row), seeds in values.items():
        for seed, accuracy in enumerate(seeds):
            run = {
                "setting": setting,
                "method": row,
                "seed": seed,
                "prediction": prediction,
                "accuracy": accuracy,
            }
            lines.append(dict.fromkeys(COLUMNS, float("nan")) | {"refused": 0} | run)
    return pd.DataFrame(lines, columns=COLUMNS)


def _table(
    results: pd.DataFrame, rows: tuple[str, ...] = ("fedavg", "fedcmi-plus"), seeds: int = 2
) -> str:
    comparison = Comparison(rows, "fedavg", dict.fromkeys(SETS, 0.5))
    return suite_table(SuiteResults(suite_figures(results), SETS, comparison, seeds), {})


def test_means_over_sets_not_over_settings() -> None:
    """Of fedavg: a is (51 + 41) / 2 = 46 with seeds 45 and 47, b is 82.

    Their mean is 64, of fedcmi-plus 60.75.

    t(0.975, 1) = 12.706: 45 and 47 have the half-width 12.706 * sqrt(2) / sqrt(2) = 12.7, 80 and
    84 twice that. fedcmi-plus is first in two of three settings: ranks (1 + 1 + 2) / 3 = 1.3 and
    1.7.
    """
    text = _table(_results(FUSED))
    assert "2 sets, 3 settings (a-all, a-half, b-all), 2 seeds." in text
    assert "| fused | a | b | mean | rank |" in text
    assert "| fedavg | 46.0 ± 12.7 | 82.0 ± 25.4 | 64.0 | 1.7 |" in text
    assert "| fedcmi-plus | 49.0 ± 12.7 | 72.5 ± 31.8 | 60.8 | 1.3 |" in text


def test_paired_differences_over_seeds_and_over_sets() -> None:
    """Points: a-all +5, +5; a-half +1, +1; b-all -10, -9.

    Over seeds: means of the settings -4/3 and -1, so -1.17 with 12.706 * 0.2357 / sqrt(2) = 2.1.
    Over sets: +3 and -9.5, so -3.25 with 12.706 * 8.839 / sqrt(2) = 79.4. Both settings of a are
    won, and clearly, since their seeds agree; b is lost, -9.5 with 12.706 * 0.5 = 6.4.
    """
    text = _table(_results(FUSED))
    assert "| fused | fedcmi-plus | -1.2 ± 2.1 | -3.2 ± 79.4 | 2 (2) | 1 (1) | 6 of 6 |" in text
    assert "fused: -1.2 on average, -9.5 at worst (points)" in text
    assert "| fused | b-all | fedavg | -9.5 ± 6.4 |" in text


def test_a_row_that_lacks_runs_has_no_mean_and_is_compared_where_it_has_them() -> None:
    """Of fedcmi-plus a seed of b is missing.

    Setting b has one run of two, and differences are of five runs.
    """
    text = _table(_results({**FUSED, ("b-all", "fedcmi-plus"): (0.70,)}))
    assert "| fedcmi-plus | 49.0 ± 12.7 | 70.0 (1 of 2 runs) | - | - |" in text
    assert "| fedavg | 46.0 ± 12.7 | 82.0 ± 25.4 | 64.0 | 1.0 |" in text
    assert "| fused | fedcmi-plus | -1.3 | -3.5 ± 82.6 | 2 (2) | 1 (0) | 5 of 6 |" in text
    assert "| fused | b-all | fedavg | -10.0 |" in text


def test_the_best_other_row_is_that_of_each_setting_and_lacks_no_seed() -> None:
    """late-fusion is best in a-all; in b-all it would be, but lacks a seed there."""
    late = {
        ("a-all", "late-fusion"): (0.60, 0.60),
        ("a-half", "late-fusion"): (0.1, 0.1),
        ("b-all", "late-fusion"): (0.9,),
    }
    text = _table(_results(FUSED | late), ("fedavg", "late-fusion", "fedcmi-plus"))
    assert "| fused | a-all | late-fusion | -4.0 ± 12.7 |" in text
    assert "| fused | a-half | fedavg | +1.0 ± 0.0 |" in text
    assert "| fused | b-all | fedavg | -9.5 ± 6.4 |" in text


def test_one_seed_has_no_intervals() -> None:
    text = _table(_results({key: seeds[:1] for key, seeds in FUSED.items()}), seeds=1)
    assert "| fedavg | 45.0 | 80.0 | 62.5 | 1.7 |" in text
    assert "| fused | fedcmi-plus | -1.3 | -3.5 ± 82.6 | 2 (0) | 1 (0) | 3 of 3 |" in text


def test_each_modality_alone_is_the_mean_of_what_one_modality_predicts() -> None:
    """Predictions by one modality are meant, neither its head nor a pair."""
    both = {("a-all", "fedavg"): (0.2, 0.4)}
    results = pd.concat([
        _results(both), _results(both, "x only"), _results({("a-all", "fedavg"): (0.4, 0.8)}, "y only"),
        _results({("a-all", "fedavg"): (1.0, 1.0)}, "x+y only"), _results({("a-all", "fedavg"): (1.0, 1.0)}, "x head"),
    ])  # fmt: skip
    found = suite_figures(results)
    assert list(found) == ["fused", ALONE]
    assert found[ALONE]["fedavg"].tolist() == pytest.approx([30.0, 60.0])


def test_without_the_baseline_there_are_no_differences() -> None:
    text = _table(_results({key: seeds for key, seeds in FUSED.items() if key[1] != "fedavg"}))
    assert "No run of fedavg finished: nothing to take differences to." in text
    assert "against the best other row" not in text


def test_what_failed_is_listed_with_its_reason(tmp_path: Path) -> None:
    """A finished run is not listed; error.txt says first what a log says last.

    What never ran says so.
    """
    planned = plan({"s": {"fedavg": {"method": "fedavg"}}}, 4, 2, tmp_path)
    for experiment, (name, text) in zip(
        planned,
        [("summary.md", "x"), ("error.txt", "diverged\nmore\n"), ("log.txt", "a\nkilled\n\n")],
        strict=False,
    ):
        experiment.run_dir.mkdir(parents=True)
        (experiment.run_dir / name).write_text(text)
    found = failures(planned)
    assert found == {
        "s fedavg seed 1": "diverged",
        "s fedavg seed 2": "killed",
        "s fedavg seed 3": "not run",
    }
    comparison = Comparison(("fedavg",), "fedavg", {"s": 0.5})
    text = suite_table(
        SuiteResults(suite_figures(_results({("s", "fedavg"): (0.5,)})), {"s": "s"}, comparison, 4),
        found,
    )
    assert "3 runs did not finish:\n\n- s fedavg seed 1: diverged\n" in text
    assert "| fedavg | 50.0 (1 of 4 runs) | - | - |" in text
