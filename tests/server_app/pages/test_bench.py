"""The page of a bench.

Its tables and lines are those of its files, and what cannot be read is refused.
"""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import MOST_BYTES, Page, edit_records, lengthen, page_of

from server_app.bench.comparison import Comparison, read_comparison
from server_app.bench.experiments import plan
from server_app.bench.reader import Setting, read_setting
from server_app.bench.table import write_results
from server_app.figures.drawing import BLACK, COLOURS
from server_app.figures.fairness import FIGURES
from server_app.figures.statistics import mean_and_interval
from server_app.pages.bench import method_colours, method_lines
from server_app.pages.report import write_report
from server_app.run.reader import ReportError

BENCH_CHARTS = ["intervals", "class-accuracy", "accuracy-over-rounds", "accuracy-over-bytes"]


def test_the_page_of_a_bench_has_intervals_differences_and_the_best_in_bold(
    bench_dir: Path, bench_page: Path
) -> None:
    page = Page(bench_page)
    assert page.charts() == BENCH_CHARTS
    with (bench_dir / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prediction"] == "fused"]
    found = {
        m: [100 * float(row["accuracy"]) for row in rows if row["method"] == m]
        for m in ("fedavg", "fedcmi-plus")
    }
    (base, base_half), (plus, plus_half) = (mean_and_interval(values) for values in found.values())
    ahead, width = mean_and_interval([b - a for a, b in zip(*found.values(), strict=True)])
    cells = [
        f"{base:.1f} ± {base_half:.1f}",
        f"{plus:.1f} ± {plus_half:.1f} ({ahead:+.1f} ± {width:.1f})",
    ]
    best = int(plus > base)
    cells[best] = f"<strong>{cells[best]}</strong>"
    for name, cell in zip(found, cells, strict=True):
        assert f'<th scope="row">{name}</th><td>2</td><td>{cell}</td>' in page.source
    for text in (
        "Fairness, on the test split.",
        "spread of classes",
        "Every run: 4 simulated nodes.",
        "What differs between the runs.",
        "self-head-votes",
        "torch",
    ):
        assert text in page.text
    assert "audio head" not in page.text


def _drop_column(path: Path) -> None:
    pd.read_csv(path).drop(columns="best").to_csv(path, index=False)


def _other_rows(path: Path) -> None:
    Comparison(["fedcmi-plus"], "fedcmi-plus", {"small": 0.5}).write(path.parent)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, r"results\.csv: no such file; .* Call `fedcmi bench` again to go on"),
        (
            lambda path: path.write_text("setting,method\n"),
            r"results\.csv: .*delete it and call `fedcmi bench` again",
        ),
        (_drop_column, r"results\.csv: .*'?best'? .*delete it and call `fedcmi bench` again"),
        (
            lambda path: (path.parent / "comparison.json").unlink(),
            r"comparison\.json: no such file; call `fedcmi bench`",
        ),
        (
            lambda path: (path.parent / "comparison.json").write_text("[]"),
            r"comparison\.json: not written by this ver",
        ),
        (
            _other_rows,
            r"comparison\.json: row 'fedavg' of results\.csv is missing; call `fedcmi bench` again",
        ),
        (
            lambda path: shutil.rmtree(path.parent / "small" / "fedavg" / "seed1"),
            r"seed1: the run is not finished",
        ),
        (
            lambda path: (path.parent / "bench.json").write_text("[]"),
            r"bench\.json: not written by `fedcmi bench`",
        ),
    ],
)
def test_a_broken_bench_is_refused(
    bench_copy: Path, damage: Callable[[Path], Any], words: str
) -> None:
    damage(bench_copy / "results.csv")
    with pytest.raises(ReportError, match=words):
        write_report(bench_copy)


def test_the_page_of_a_bench_keeps_to_the_tables_order_baseline_and_sentences(
    bench_copy: Path,
) -> None:
    """The baseline is the last row here.

    Seed 1 of fedavg is not finished, so that it is marked and left out.
    """
    (bench_copy / "small" / "fedavg" / "seed1" / "summary.md").unlink()
    edit_records(
        bench_copy / "small" / "fedavg" / "seed0", lambda record: record["refused"].append("why")
    )
    planned = plan(
        {"small": {row: {"method": row} for row in ("fedavg", "fedcmi-plus")}}, 2, 4, bench_copy
    )
    table = write_results(planned, "fedcmi-plus", None, bench_copy)
    page = page_of(bench_copy, bench_copy / "page.html")
    own, *others = re.findall(
        r"^\| fedavg \(1 seed\) \| (.*?) \| (.*?) \| (.*?) \|", table, re.MULTILINE
    )[0]
    assert re.fullmatch(r"\d+\.\d \([+-]\d+\.\d\)", own)
    cells = "".join(f"<td>{cell}</td>" for cell in (own, *others))
    assert f'<th scope="row">fedavg</th><td>1</td>{cells}' in page.source
    assert page.source.index('<th scope="row">fedavg') < page.source.index(
        '<th scope="row">fedcmi-plus'
    )
    assert "fedavg (1 seed)" in page.text.split("Accuracy of the methods")[1]
    for sentence in (
        "Left out, since seeds of it are missing: fedavg.",
        "missing: fedavg 3 in 1 of 1 runs.",
    ):
        assert (sentence in table, sentence in page.text) == (True, True)


def test_the_baseline_is_black_wherever_it_stands() -> None:
    frame = pd.DataFrame(
        [("s", row, 0, "fused", value) for row, value in (("a", 0.9), ("fedavg", 0.5), ("b", 0.8))],
        columns=["setting", "method", "seed", "prediction", "accuracy"],
    )
    curves: dict[str, list[Any]] = {"a": [], "fedavg": [], "b": []}
    compared = Comparison(["a", "fedavg", "b"], "fedavg", {"s": 0.5})
    setting = Setting("s", frame, compared, curves, {}, [], [])
    found = method_colours([setting], "fedavg")
    assert found == {"fedavg": BLACK, "a": COLOURS[0], "b": COLOURS[1]}


def test_lines_of_a_bench_are_as_long_as_their_runs(bench_copy: Path) -> None:
    """One run of fedavg lost its last of three rounds.

    Its mean has two, and the other row's three.
    """
    metrics = bench_copy / "small" / "fedavg" / "seed1" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    results = pd.read_csv(bench_copy / "results.csv")
    setting = read_setting(bench_copy, "small", results, read_comparison(bench_copy))
    colours = {"fedavg": BLACK, "fedcmi-plus": COLOURS[0]}
    for over_bytes in (False, True):
        lines = method_lines(setting, colours, over_bytes)
        assert [(line.label, len(line.x), len(line.y)) for line in lines] == [
            ("fedavg", 2, 2),
            ("fedcmi-plus", 3, 3),
        ]


@pytest.mark.parametrize("made", ["tune.csv", "small/fedprox@lr=0.1"])
def test_the_directory_of_tuning_is_called_so(tmp_path: Path, made: str) -> None:
    """Finished or not."""
    (tmp_path / made).mkdir(parents=True) if "@" in made else (tmp_path / made).touch()
    (tmp_path / "bench.json").write_text('{"num-nodes": 4, "settings": {}}')
    with pytest.raises(
        ReportError, match=r"made by `fedcmi tune`, of which there is no page; look at tune\.csv"
    ):
        write_report(tmp_path)


def test_runs_that_did_not_finish_are_named(bench_copy: Path) -> None:
    broken = bench_copy / "small" / "fedcmi" / "seed0"
    broken.mkdir(parents=True)
    (broken / "log.txt").write_text("error: ...")
    assert "small/fedcmi/seed0/log.txt" in page_of(bench_copy, bench_copy / "page.html").text


def test_a_large_bench_stays_small_and_says_which_methods_are_grey(
    plus_run: Path, tmp_path: Path
) -> None:
    """30 methods and 60 rounds in one of four settings.

    The number of seeds changes lines, not their number.
    """
    rows = [f"setting,method,seed,prediction,accuracy,best,refused,{','.join(FIGURES)}"]
    for method in range(30):
        for seed in range(2):
            lengthen(
                plus_run, tmp_path / "half" / f"m{method}" / f"seed{seed}", rounds=60, nodes=20
            )
            rows += [
                f"half,m{method},{seed},{name},0.{method + 10}{seed},0.9,0{',0.5' * len(FIGURES)}"
                for name in ("fused", "audio only")
            ]
    (tmp_path / "results.csv").write_text("\n".join(rows))
    Comparison([f"m{number}" for number in range(30)], "m0", {"half": 0.5}).write(tmp_path)
    page = page_of(tmp_path, tmp_path / "page.html")
    assert len(page.source.encode()) < MOST_BYTES / 8
    assert "grey: the 23 other methods, without intervals." in page.text
    assert page.text.count("others") == 2  # one entry in each of two legends
    for method in ("m0", *(f"m{number}" for number in range(24, 30))):
        assert page.text.count(f" {method} ") > page.text.count(" m12 ")
