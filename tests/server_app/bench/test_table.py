"""The numbers of a bench's table, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from server_app.bench import comparison
from server_app.bench.comparison import Comparison
from server_app.bench.experiments import Experiment, plan
from server_app.bench.matrix import (
    MATRIX,
    collect_matrices,
    matrix_table,
    read_matrices,
    subset_table,
)
from server_app.bench.table import (
    COLUMNS,
    choose_targets,
    collect,
    finished_runs,
    results_table,
    write_results,
)
from server_app.figures import statistics
from server_app.figures.fairness import FIGURES
from server_app.run.matrix import write_matrix

FUSED = {"bytes_down": {"0": 400_000, "1": 100_000}, "bytes_up": {"0": 500_000}}
"""One megabyte a round."""


def _results(
    values: dict[str, tuple[float, ...]], prediction: str = "fused", **more: tuple[float, ...]
) -> pd.DataFrame:
    """Return results of a setting "s" from accuracies per row and seed.

    ``more``: columns, one value per seed.
    """
    lines = []
    for row, seeds in values.items():
        for seed, accuracy in enumerate(seeds):
            filled: dict[str, Any] = {name: column[seed] for name, column in more.items()}
            line = (
                dict.fromkeys(COLUMNS, 1.0) | {"refused": 0, "by_validation": float("nan")} | filled
            )
            lines.append(
                line
                | {
                    "setting": "s",
                    "method": row,
                    "seed": seed,
                    "prediction": prediction,
                    "accuracy": accuracy,
                }
            )
    return pd.DataFrame(lines, columns=COLUMNS)


def _compared(
    *rows: str, own: tuple[str, ...] = ("fedcmi-plus",), target: float = 0.5
) -> Comparison:
    return Comparison(rows, rows[0], {"s": target}, own)


def _finished(
    out: Path, accuracies: dict[str, list[float | None]], row: str = "fedavg"
) -> Experiment:
    """Write a finished run with these accuracies from round 0 on.

    A megabyte moves in each trained round.
    """
    [experiment] = plan({"s": {row: {"method": row}}}, 1, 4, out)
    experiment.run_dir.mkdir(parents=True)
    (experiment.run_dir / "summary.md").write_text("finished")
    lines = []
    for index, values in enumerate(zip(*accuracies.values(), strict=True)):
        moved = FUSED if index else {"bytes_down": {}, "bytes_up": {}}
        accuracy = dict(zip(accuracies, values, strict=True))
        counts = {name: {"correct": [100 * (value or 0)], "count": [100 * (value is not None)]}
                  for name, value in accuracy.items()}  # fmt: skip
        kept = {
            "round": index,
            "accuracy": accuracy,
            "counts": counts,
            "refused": ["why"] * (index // 2),
        }
        lines.append(json.dumps(kept | moved))
    (experiment.run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return experiment


def test_table_has_means_intervals_and_paired_differences() -> None:
    """t(0.975, 2 degrees of freedom) = 4.3027.

    Of 10, 20, 30 the half-width is 4.3027 * 10 / sqrt(3) = 24.8.

    The differences to it are 1, 2, 3 points: mean 2, half-width 4.3027 / sqrt(3) = 2.5. The best
    rounds are 10 on average; of 8, never, 10 megabytes two count.
    """
    values = {"fedavg": (0.1, 0.2, 0.3), "fedcmi": (0.11, 0.22, 0.33)}
    nan = float("nan")
    results = _results(
        values,
        best_round=(8, 10, 12),
        rounds_to_target=(nan,) * 3,
        megabytes_to_target=(8, nan, 10),
    )
    text = results_table(results, _compared("fedavg", "fedcmi"))
    assert "### s (3 seeds, target 50.0 %)" in text
    assert "| fedavg | 20.0 ± 24.8 | 100.0 in 10 | never | 9 (2 of 3) |" in text
    assert "| fedcmi | 22.0 ± 27.3 (+2.0 ± 2.5) | 100.0 in 10 | never | 9 (2 of 3) |" in text
    assert "against the best other row" not in text
    assert f"| method | {' | '.join(FIGURES.values())} |\n" in text
    assert text.count("| fedcmi | 100.0 ± 0.0 (+0.0 ± 0.0) | 100.0 ± 0.0 (+0.0 ± 0.0) |") == 1


def test_the_best_round_by_validation_has_a_column_where_it_was_chosen() -> None:
    """Of 50, 60 and 70 % the half-width is 4.3027 * 10 / sqrt(3) = 24.8."""
    results = _results({"fedavg": (0.1, 0.2, 0.3)}, by_validation=(0.5, 0.6, 0.7))
    text = results_table(results, _compared("fedavg"))
    assert "| fused | best by validation | best round |" in text
    assert "| fedavg | 20.0 ± 24.8 | 60.0 ± 24.8 | 100.0 in 1 |" in text


def test_one_seed_has_no_interval_and_a_missing_one_is_said() -> None:
    """Of fedcmi only seed 1 is finished.

    It is compared with fedavg's seed 1, not with fedavg's mean.
    """
    results = _results({"fedavg": (0.1, 0.2), "fedcmi": (0.5, 0.25)})
    results = results[(results["method"] == "fedavg") | (results["seed"] == 1)]
    assert "| fedcmi (1 seed) | 25.0 (+5.0) | 100.0 in 1 |" in results_table(
        results, _compared("fedavg", "fedcmi")
    )


def test_a_row_without_a_prediction_has_a_dash() -> None:
    both = pd.concat(
        [_results({"fedavg": (0.1,), "deaf": (0.2,)}), _results({"fedavg": (0.3,)}, "audio only")]
    )
    text = results_table(both, _compared("fedavg", "deaf"))
    assert "| method | fused | audio only |" in text
    assert "| deaf | 20.0 (+10.0) | - |" in text


def test_the_overview_has_rows_over_settings_for_each_prediction() -> None:
    """One seed: no interval.

    The second setting has no run of fedcmi, audio only is predicted in the first alone.
    """
    first = pd.concat(
        [_results({"fedavg": (0.1,), "fedcmi": (0.2,)}), _results({"fedcmi": (0.3,)}, "audio only")]
    )
    second = _results({"fedavg": (0.4,)}).assign(setting="t")
    compared = Comparison(("fedavg", "fedcmi"), "fedavg", {"s": 0.5, "t": 0.5}, ())
    overview = results_table(pd.concat([first, second]), compared).split("###")[0]
    assert (
        "| fused | s | t |\n|---|---|---|\n| fedavg | 10.0 | 40.0 |\n| fedcmi | 20.0 | - |\n"
        in overview
    )
    assert "| audio only | s | t |\n|---|---|---|\n| fedcmi | 30.0 | - |\n" in overview


def test_the_best_other_row_is_no_variation_of_it() -> None:
    """Fused: fedprox (0.4) is best once the variation (0.9) is left out.

    Differences 10 and 30 points, t(1) = 12.706.

    Audio only: fedavg is best.
    """
    fused = {
        "fedcmi-plus": (0.5, 0.7),
        "variation": (0.9, 0.9),
        "fedprox": (0.4, 0.4),
        "fedavg": (0.3, 0.3),
    }
    audio = {"fedcmi-plus": (0.5, 0.5), "fedprox": (0.1, 0.1), "fedavg": (0.6, 0.6)}
    results = pd.concat([_results(fused), _results(audio, "audio only")])
    compared = _compared(
        "fedavg", *(row for row in fused if row != "fedavg"), own=("fedcmi-plus", "variation")
    )
    assert (
        "fedcmi-plus against the best other row: fused +20.0 ± 127.1 points (fedprox), "
        "audio only -10.0 ± 0.0 points (fedavg)."
    ) in results_table(results, compared)


def test_a_row_wins_only_with_all_seeds_of_the_row_it_is_compared_with() -> None:
    """The other has seed 1 alone, and that is better than any: it is left out.

    Of the others fedprox is 20 and 30 points behind.

    A row without any run is left out too. fedprox's seed 2, which fedcmi-plus has not finished,
    does not count: with it fedprox would be behind fedavg.
    """
    values = {
        "fedavg": (0.29, 0.29),
        "fedprox": (0.3, 0.3, 0.0),
        "lucky": (0.0, 0.9),
        "fedcmi-plus": (0.5, 0.6),
    }
    results = _results(values)
    results = results[(results["method"] != "lucky") | (results["seed"] == 1)]
    compared = _compared("fedavg", "fedprox", "lucky", "never", "fedcmi-plus")
    assert comparison.best_other(results, compared) == (
        "fedcmi-plus against the best other row: fused +25.0 ± 63.5 points (fedprox). "
        "Left out, since seeds of it are missing: lucky, never."
    )
    assert "Left out" not in comparison.best_other(
        results, _compared("fedavg", "fedprox", "fedcmi-plus")
    )


def test_the_overview_marks_rows_with_fewer_seeds_than_their_setting() -> None:
    """Row fedcmi has one of two seeds in s, and the only one of t."""
    first, second = (
        _results({"fedavg": (0.1, 0.1), "fedcmi": (0.2,)}),
        _results({"fedcmi": (0.4,)}).assign(setting="t"),
    )
    compared = Comparison(("fedavg", "fedcmi"), "fedavg", {"s": 0.5, "t": 0.5}, ())
    overview = results_table(pd.concat([first, second]), compared).split("###")[0]
    assert "| fedavg | 10.0 ± 0.0 | - |\n| fedcmi | 20.0 (1 seed) | 40.0 |\n" in overview


def test_refused_replies_are_said_below_the_table() -> None:
    results = _results({"fedavg": (0.1,) * 3}, refused=(0, 2, 5))
    text = results_table(
        pd.concat([results, _results({"fedcmi": (0.1,) * 3})]), _compared("fedavg", "fedcmi")
    )
    assert "\n\nReplies refused or missing: fedavg 7 in 2 of 3 runs.\n" in text
    assert "refused" not in results_table(_results({"fedavg": (0.1,) * 3}), _compared("fedavg"))


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A setting without a target, NaN, is null in the file."""
    written = Comparison(["b", "a"], "a", {"s": 0.25, "t": float("nan")}, ["b"])
    written.write(tmp_path)
    assert '"t": null' in (tmp_path / "comparison.json").read_text()
    found = comparison.read_comparison(tmp_path)
    assert (found.rows, found.baseline, found.own, found.targets["s"]) == (
        ["b", "a"],
        "a",
        ["b"],
        0.25,
    )
    assert np.isnan(found.targets["t"])


def test_a_mean_curve_ends_with_the_shortest_seed() -> None:
    """Means 20 and 30; of 10 and 30 the half-width is 12.706 * 14.142 / sqrt(2) = 127.06."""
    mean, half = statistics.mean_curve([np.array([10.0, 30.0]), np.array([30.0, 30.0, 7.0])])
    assert mean.tolist() == [20, 30]
    assert half == pytest.approx([127.06, 0], abs=0.01)


def test_collect_takes_the_last_rounds_the_best_and_the_first_at_the_target(tmp_path: Path) -> None:
    """Rounds 0..6 with accuracy 0.9, .1 ... .6: the last five are .2 to .6, mean .4.

    The best is round 0's.

    A target of 0.35 is reached in round 0 already, before a byte is sent; audio alone is best in
    round 2.
    """
    accuracies = {
        "fused": [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "audio only": [0.1, 0.1, 0.8, 0.8, 0.1, 0.1, 0.1],
    }
    experiment = _finished(tmp_path, accuracies)
    fused, audio = collect(finished_runs([experiment]), {"s": 0.35}).to_dict("records")
    assert fused["accuracy"] == pytest.approx(0.4)
    assert (fused["best"], fused["best_round"]) == (0.9, 0)
    assert (fused["rounds_to_target"], fused["megabytes_to_target"]) == (0, 0)
    assert (audio["best"], audio["best_round"]) == (0.8, 2)
    assert fused["refused"] == 0 + 0 + 1 + 1 + 2 + 2 + 3
    assert pd.isna(audio["refused"])
    assert pd.isna([audio["rounds_to_target"], audio["megabytes_to_target"]]).all()


def test_bytes_count_until_the_target(tmp_path: Path) -> None:
    runs = finished_runs([_finished(tmp_path, {"fused": [0.1, 0.2, 0.3, 0.2]})])
    assert statistics.to_target(runs[0][1], 0.3) == (2.0, 2.0)
    assert np.isnan(statistics.to_target(runs[0][1], 0.31)).all()


def test_the_target_is_the_baselines_mean_unless_it_is_given(tmp_path: Path) -> None:
    runs = finished_runs([_finished(tmp_path, {"fused": [0.9, 0.1, 0.2]})])
    assert choose_targets(runs, "fedavg", None) == {"s": pytest.approx(0.15)}
    assert choose_targets(runs, "fedavg", 75) == {"s": 0.75}
    assert pd.isna(choose_targets(runs, "fedprox", None)["s"])


def test_what_nobody_can_predict_is_no_number(tmp_path: Path) -> None:
    """No test sample has the modality: the run writes null."""
    experiment = _finished(tmp_path, {"fused": [0.1, 0.2], "touch only": [None, None]})
    text = write_results([experiment], "fedavg", None, tmp_path)
    assert "| fedavg | 20.0 | - | 20.0 in 1 | 1 | 1 |" in text
    assert (tmp_path / "results.csv").read_text().splitlines()[
        2
    ] == "s,fedavg,0,touch only,,,0,,,," + 8 * ","
    assert (tmp_path / "accuracy-s.png").read_bytes().startswith(b"\x89PNG")


def test_a_bench_without_a_finished_run_says_where_to_look(tmp_path: Path) -> None:
    planned = plan({"s": {"fedavg": {"method": "fedavg"}}}, 1, 4, tmp_path)
    with pytest.raises(ValueError, match=r"no run finished; the logs are in .*log\.txt"):
        write_results(planned, "fedavg", None, tmp_path)


def _with_matrix(out: Path, seed: int, accuracy: float | None, rule: str) -> Experiment:
    experiment = plan({"s": {"fedavg": {"method": "fedavg"}}}, seed + 1, 4, out)[seed]
    experiment.run_dir.mkdir(parents=True)
    row = {
        "rule": rule, "temperature": 2.0, "calibrated": True, "accuracy": accuracy, "macro": 0.5, "worst_class": 0.25,
        "calibration_error": 0.1, "correct": [1], "count": [2], "by_votes": {"accuracy": 0.5, "calibration_error": 0.3},
    }  # fmt: skip
    rows = [{"modalities": ["audio"], **row}, {"modalities": ["audio", "visual"], **row}]
    write_matrix(experiment.run_dir / "matrix.json", rows)
    return experiment


def test_the_accuracy_matrix_is_the_mean_over_seeds(tmp_path: Path) -> None:
    """40 and 60 %: mean 50, half-width 12.706 * sqrt(200) / sqrt(2) = 127.1.

    One seed without samples has no number.
    """
    chosen = [(0.4, "fused"), (0.6, "self-heads"), (None, "fused")]
    runs = [_with_matrix(tmp_path, seed, *how) for seed, how in enumerate(chosen)]
    found = collect_matrices(runs)
    head, cells = subset_table(found, ["fedavg"])
    assert head == [
        "method",
        "modalities",
        "accuracy",
        "macro",
        "worst class",
        "ECE",
        "before",
        "decided by",
    ]
    same = ["50.0 ± 0.0", "25.0 ± 0.0", "10.0 ± 0.0", "30.0 ± 0.0", "fused 2, self-heads 1"]
    assert cells == [["fedavg", name, "50.0 ± 127.1", *same] for name in ("audio", "audio+visual")]
    assert any(
        "| fedavg | audio+visual | 50.0 ± 127.1 |" in line
        for line in matrix_table(found, ["fedavg"])
    )
    found.to_csv(tmp_path / MATRIX, index=False)
    assert subset_table(read_matrices(tmp_path), ["fedavg"]) == (head, cells)


def test_without_calibration_there_is_no_error_before_it(tmp_path: Path) -> None:
    found = collect_matrices([_with_matrix(tmp_path, 0, 0.5, "fused")])
    found["before"] = found["calibration_error"]
    head, cells = subset_table(found, ["fedavg"])
    assert head == ["method", "modalities", "accuracy", "macro", "worst class", "ECE", "decided by"]
    assert cells[0] == ["fedavg", "audio", "50.0", "50.0", "25.0", "10.0", "fused 1"]
    assert "before" not in "\n".join(matrix_table(found, ["fedavg"]))


def test_runs_without_a_matrix_have_no_table_of_it(tmp_path: Path) -> None:
    found = collect_matrices([_finished(tmp_path, {"fused": [0.0, 0.5]})])
    assert matrix_table(found, ["fedavg"]) == []
    assert subset_table(read_matrices(tmp_path), ["fedavg"])[1] == []
