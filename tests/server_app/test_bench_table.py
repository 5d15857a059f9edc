"""The numbers of a bench's table, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from server_app import bench_table
from server_app.bench_table import COLUMNS, Comparison
from server_app.experiments import Experiment, plan

FUSED = {"bytes_down": {"0": 400_000, "1": 100_000}, "bytes_up": {"0": 500_000}}
"""One megabyte a round."""


def _results(
    values: dict[str, tuple[float, ...]], prediction: str = "fused", **more: tuple[float, ...]
) -> pd.DataFrame:
    """Return results of a setting "s" from accuracies per row and seed; ``more``: columns, one value per seed."""
    lines = []
    for row, seeds in values.items():
        for seed, accuracy in enumerate(seeds):
            filled: dict[str, Any] = {name: column[seed] for name, column in more.items()}
            line = dict.fromkeys(COLUMNS, 1.0) | filled
            lines.append(
                line | {"setting": "s", "method": row, "seed": seed, "prediction": prediction, "accuracy": accuracy}
            )
    return pd.DataFrame(lines, columns=COLUMNS)


def _compared(*rows: str, own: tuple[str, ...] = ("fedcmi-plus",), target: float = 0.5) -> Comparison:
    return Comparison(rows, rows[0], {"s": target}, own)


def _finished(out: Path, accuracies: dict[str, list[float | None]], row: str = "fedavg") -> Experiment:
    """Write a finished run with these accuracies from round 0 on; a megabyte moves in each trained round."""
    [experiment] = plan({"s": {row: {"method": row}}}, 1, 4, out)
    experiment.run_dir.mkdir(parents=True)
    (experiment.run_dir / "summary.md").write_text("finished")
    lines = []
    for index, values in enumerate(zip(*accuracies.values(), strict=True)):
        moved = FUSED if index else {"bytes_down": {}, "bytes_up": {}}
        lines.append(json.dumps({"round": index, "accuracy": dict(zip(accuracies, values, strict=True)), **moved}))
    (experiment.run_dir / "metrics.jsonl").write_text("\n".join(lines))
    return experiment


def test_table_has_means_intervals_and_paired_differences() -> None:
    """t(0.975, 2 degrees of freedom) = 4.3027; of 10, 20, 30 the half-width is 4.3027 * 10 / sqrt(3) = 24.8.

    The differences to it are 1, 2, 3 points: mean 2, half-width 4.3027 / sqrt(3) = 2.5. The best
    rounds are 10 on average; of 8, never, 10 megabytes two count.
    """
    values = {"fedavg": (0.1, 0.2, 0.3), "fedcmi": (0.11, 0.22, 0.33)}
    nan = float("nan")
    results = _results(values, best_round=(8, 10, 12), rounds_to_target=(nan,) * 3, megabytes_to_target=(8, nan, 10))
    text = bench_table.table(results, _compared("fedavg", "fedcmi"))
    assert "### s (3 seeds, target 50.0 %)" in text
    assert "| fedavg | 20.0 ± 24.8 | 100.0 in 10 | never | 9 (2 of 3) |" in text
    assert "| fedcmi | 22.0 ± 27.3 (+2.0 ± 2.5) | 100.0 in 10 | never | 9 (2 of 3) |" in text
    assert "against the best other row" not in text


def test_one_seed_has_no_interval_and_a_missing_one_is_said() -> None:
    """Of fedcmi only seed 1 is finished: it is compared with fedavg's seed 1, not with fedavg's mean."""
    results = _results({"fedavg": (0.1, 0.2), "fedcmi": (0.5, 0.25)})
    results = results[(results["method"] == "fedavg") | (results["seed"] == 1)]
    assert "| fedcmi (1 seeds) | 25.0 (+5.0) | 100.0 in 1 |" in bench_table.table(
        results, _compared("fedavg", "fedcmi")
    )


def test_a_row_without_a_prediction_has_a_dash() -> None:
    both = pd.concat([_results({"fedavg": (0.1,), "deaf": (0.2,)}), _results({"fedavg": (0.3,)}, "audio only")])
    text = bench_table.table(both, _compared("fedavg", "deaf"))
    assert "| method | fused | audio only |" in text
    assert "| deaf | 20.0 (+10.0) | - |" in text


def test_the_overview_has_rows_over_settings_for_each_prediction() -> None:
    """One seed: no interval. The second setting has no run of fedcmi, audio only is predicted in the first alone."""
    first = pd.concat([_results({"fedavg": (0.1,), "fedcmi": (0.2,)}), _results({"fedcmi": (0.3,)}, "audio only")])
    second = _results({"fedavg": (0.4,)}).assign(setting="t")
    compared = Comparison(("fedavg", "fedcmi"), "fedavg", {"s": 0.5, "t": 0.5}, ())
    overview = bench_table.table(pd.concat([first, second]), compared).split("###")[0]
    assert "| fused | s | t |\n|---|---|---|\n| fedavg | 10.0 | 40.0 |\n| fedcmi | 20.0 | - |\n" in overview
    assert "| audio only | s | t |\n|---|---|---|\n| fedcmi | 30.0 | - |\n" in overview


def test_the_best_other_row_is_no_variation_of_it() -> None:
    """Fused: fedprox (0.4) is best once the variation (0.9) is left out; differences 10 and 30 points, t(1) = 12.706.

    Audio only: fedavg is best.
    """
    fused = {"fedcmi-plus": (0.5, 0.7), "variation": (0.9, 0.9), "fedprox": (0.4, 0.4), "fedavg": (0.3, 0.3)}
    audio = {"fedcmi-plus": (0.5, 0.5), "fedprox": (0.1, 0.1), "fedavg": (0.6, 0.6)}
    results = pd.concat([_results(fused), _results(audio, "audio only")])
    compared = _compared("fedavg", *(row for row in fused if row != "fedavg"), own=("fedcmi-plus", "variation"))
    assert (
        "fedcmi-plus against the best other row: fused +20.0 ± 127.1 points (fedprox), "
        "audio only -10.0 ± 0.0 points (fedavg)."
    ) in bench_table.table(results, compared)


def test_collect_takes_the_last_rounds_the_best_and_the_first_at_the_target(tmp_path: Path) -> None:
    """Rounds 0..6 with accuracy 0.9, .1 ... .6: the last five are .2 to .6, mean .4; the best is round 0's.

    A target of 0.35 is reached in round 0 already, before a byte is sent; audio alone is best in round 2.
    """
    accuracies = {"fused": [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "audio only": [0.1, 0.1, 0.8, 0.8, 0.1, 0.1, 0.1]}
    experiment = _finished(tmp_path, accuracies)
    fused, audio = bench_table.collect(bench_table.finished_runs([experiment]), {"s": 0.35}).to_dict("records")
    assert fused["accuracy"] == pytest.approx(0.4)
    assert (fused["best"], fused["best_round"]) == (0.9, 0)
    assert (fused["rounds_to_target"], fused["megabytes_to_target"]) == (0, 0)
    assert (audio["best"], audio["best_round"]) == (0.8, 2)
    assert pd.isna([audio["rounds_to_target"], audio["megabytes_to_target"]]).all()


def test_bytes_count_until_the_target(tmp_path: Path) -> None:
    runs = bench_table.finished_runs([_finished(tmp_path, {"fused": [0.1, 0.2, 0.3, 0.2]})])
    assert bench_table.to_target(runs[0][1], 0.3) == (2.0, 2.0)
    assert np.isnan(bench_table.to_target(runs[0][1], 0.31)).all()


def test_the_target_is_the_baselines_mean_unless_it_is_given(tmp_path: Path) -> None:
    runs = bench_table.finished_runs([_finished(tmp_path, {"fused": [0.9, 0.1, 0.2]})])
    assert bench_table.choose_targets(runs, "fedavg", None) == {"s": pytest.approx(0.15)}
    assert bench_table.choose_targets(runs, "fedavg", 75) == {"s": 0.75}
    assert pd.isna(bench_table.choose_targets(runs, "fedprox", None)["s"])


def test_what_nobody_can_predict_is_no_number(tmp_path: Path) -> None:
    """No test sample has the modality: the run writes null."""
    experiment = _finished(tmp_path, {"fused": [0.1, 0.2], "touch only": [None, None]})
    text = bench_table.write_results([experiment], "fedavg", None, tmp_path)
    assert "| fedavg | 20.0 | - | 20.0 in 1 | 1 | 1 |" in text
    assert (tmp_path / "results.csv").read_text().splitlines()[2] == "s,fedavg,0,touch only,,,0,,"
    assert (tmp_path / "accuracy-s.png").read_bytes().startswith(b"\x89PNG")


def test_a_bench_without_a_finished_run_says_where_to_look(tmp_path: Path) -> None:
    planned = plan({"s": {"fedavg": {"method": "fedavg"}}}, 1, 4, tmp_path)
    with pytest.raises(ValueError, match=r"no run finished; the logs are in .*log\.txt"):
        bench_table.write_results(planned, "fedavg", None, tmp_path)
