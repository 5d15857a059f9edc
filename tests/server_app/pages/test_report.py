"""The page of a run and of a bench: what is on it, what is escaped, what is refused, and that it needs no network."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from server_app.bench.comparison import Comparison, read_comparison
from server_app.bench.experiments import plan
from server_app.bench.table import write_results
from server_app.figures.drawing import BLACK, COLOURS, draw_lines, draw_nodes
from server_app.figures.fairness import FIGURES
from server_app.figures.savers import svg_chart
from server_app.figures.statistics import class_accuracy, cumulative_megabytes, mean_and_interval
from server_app.pages.bench import Setting, method_colours, method_lines, read_setting
from server_app.pages.report import write_report
from server_app.pages.run import NO_TEMPERATURES
from server_app.run.directory import read_metrics
from server_app.run.matrix import read_matrix
from server_app.run.reader import ReportError
from server_app.run.records import final_accuracy, percent

RUN_CHARTS = ["accuracy-over-rounds", "accuracy-over-bytes", "losses", *["class-accuracy"] * 5, "dominance"]
FAIRNESS_CHARTS = ["fairness-classes", "fairness-nodes"]
BENCH_CHARTS = ["intervals", "class-accuracy", "accuracy-over-rounds", "accuracy-over-bytes"]
MOST_BYTES = 6_000_000


class Page(HTMLParser):
    """A page's elements, ids and visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element and its attributes."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += f"{data} "

    def charts(self) -> list[str | None]:
        """Return the kinds of the figures, in order."""
        return [attributes["data-chart"] for tag, attributes in self.elements if tag == "figure"]


def _page(directory: Path, out: Path) -> Page:
    return Page(write_report(directory, out))


def _edit_config(directory: Path, **changes: Any) -> None:  # noqa: ANN401
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_records(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    records = read_metrics(directory)
    for record in records:
        change(record)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def copy(tmp_path: Path, plus_run: Path) -> Path:
    """Return a copy of a run, to be changed."""
    return Path(shutil.copytree(plus_run, tmp_path / "copy"))


@pytest.fixture
def bench_copy(tmp_path: Path, bench_dir: Path) -> Path:
    """Return a copy of a bench, to be changed."""
    return Path(shutil.copytree(bench_dir, tmp_path / "bench"))


def test_the_page_of_a_run_has_its_table_charts_settings_and_environment(plus_run: Path, tmp_path: Path) -> None:
    page = _page(plus_run, tmp_path / "new" / "page.html")
    records = read_metrics(plus_run)
    weak = {name for record in records for name in record["measured"]["ratio"]}
    assert page.charts() == [*RUN_CHARTS, *["temperature"] * len(weak), *FAIRNESS_CHARTS, "nodes"]
    for name, value in final_accuracy(records).items():
        assert f'<th scope="row">{name}</th><td><strong>{percent(value)}</strong></td>' in page.source
    for text in ("fedcmi-plus on", "dirichlet-alpha", "kd-temperature-scaling", "torch", "device", "small-cnn"):
        assert text in page.text
    assert "No reply was refused or missing." in page.text
    for row in read_matrix(plus_run / "matrix.json"):
        assert f'<th scope="row">{"+".join(row["modalities"])}</th><td>{row["rule"]}</td>' in page.source
    assert "There was no validation data to choose on." in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_nodes_that_never_replied_are_said_to_be_unknown(plus_run: Path, tmp_path: Path) -> None:
    replied = {node for record in read_metrics(plus_run) for node in record["examples"]}
    assert 0 < len(replied) < 6
    expected = f"{6 - len(replied)} of 6 never sent a reply that was used, so their samples are not known."
    assert expected in _page(plus_run, tmp_path / "page.html").text


def test_a_run_of_before_says_that_its_samples_were_not_noted(copy: Path) -> None:
    _edit_records(copy, lambda record: record.pop("examples"))
    page = _page(copy, copy / "page.html")
    assert "made by a version that did not note the samples of each node" in page.text
    assert "never sent a reply" not in page.text


def test_an_unknown_number_of_samples_is_hatched_and_not_zero() -> None:
    """Node 0 has 5 samples, node 7 is unknown: its bar is as high as the highest, and hatched."""
    figure = Figure()
    draw_nodes(figure, ["0", "7"], [["audio"], ["audio"]], [5, None], {"audio": "#0072b2"})
    known, unknown = figure.axes[1].patches
    assert (known.get_height(), known.get_hatch()) == (5, None)
    assert (unknown.get_height(), bool(unknown.get_hatch())) == (5, True)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0", "7"]


def test_a_method_without_a_teacher_has_a_sentence_in_place_of_charts(fedavg_run: Path, tmp_path: Path) -> None:
    page = _page(fedavg_run, tmp_path / "page.html")
    assert NO_TEMPERATURES in page.text
    assert not {"dominance", "temperature"} & set(page.charts())
    assert "nodes" in page.charts()


def test_figures_of_the_curves_by_hand() -> None:
    """3 of 4 right are 75 %; no sample is no accuracy; 1 MB down and 0.5 MB up, twice."""
    counts = {"fused": {"correct": [3, 0], "count": [4, 0]}}
    record = {"counts": counts, "bytes_down": {"0": 600_000, "1": 400_000}, "bytes_up": {"1": 500_000}}
    np.testing.assert_equal(class_accuracy([record, record], "fused"), [[75, 75], [np.nan, np.nan]])
    assert cumulative_megabytes([record, record]).tolist() == [1.5, 3.0]


def test_what_others_wrote_is_text_and_never_markup(copy: Path) -> None:
    evil = '<script>alert(1)</script>&amp;"$x$'
    _edit_config(copy, method=evil, dataset={"classes": [evil] * 10, "modalities": ["audio", "visual"]})
    _edit_records(copy, lambda record: record["refused"].append(f"no <img src=x onerror=alert(2)> {evil}"))
    page = _page(copy, copy / "page.html")
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert f"{evil} on " in page.text
    assert "round 3: no <img src=x onerror=alert(2)>" in page.text
    assert "<script>alert(1)</s" in page.text.split("Per class")[1].split("Dominance")[0]  # the label of a class


@pytest.mark.parametrize("kind", ["run", "bench"])
def test_the_page_needs_no_network(plus_run: Path, bench_dir: Path, tmp_path: Path, kind: str) -> None:
    page = _page(plus_run if kind == "run" else bench_dir, tmp_path / "page.html")
    links = [value or "" for _, attributes in page.elements for key, value in attributes.items() if "href" in key]
    sources = [value or "" for _, attributes in page.elements for key, value in attributes.items() if "src" in key]
    assert any(link.startswith("#") for link in links)
    assert all(link.startswith(("#", "data:")) for link in [*links, *sources])
    assert set(re.findall(r"url\(.", page.source)) == {"url(#"}
    assert "@import" not in page.source
    assert not re.search(r"https?:", page.source)
    assert "default-src 'none'" in page.source


@pytest.mark.parametrize("kind", ["run", "bench"])
def test_the_same_files_give_the_same_bytes(plus_run: Path, bench_dir: Path, tmp_path: Path, kind: str) -> None:
    """Whatever the user's matplotlibrc says."""
    directory = plus_run if kind == "run" else bench_dir
    first = write_report(directory, tmp_path / "a.html").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "svg.hashsalt": "other"}):
        assert write_report(directory, tmp_path / "b.html").read_bytes() == first


def test_the_page_goes_into_the_directory_and_is_replaced(copy: Path) -> None:
    assert write_report(copy) == copy / "report.html"
    _edit_config(copy, method="renamed")
    assert "renamed on " in Page(write_report(copy)).text


def test_a_failed_run_says_why_and_shows_what_there_is(copy: Path) -> None:
    (copy / "error.txt").write_text("RoundFailedError: no <space> left\n\nTraceback ...\n")
    (copy / "summary.md").unlink()
    page = _page(copy, copy / "page.html")
    assert "RoundFailedError: no <space> left" in page.text
    assert "accuracy-over-rounds" in page.charts()
    first = (copy / "metrics.jsonl").read_text().splitlines()[0]
    (copy / "metrics.jsonl").write_text(first + "\n")
    page = _page(copy, copy / "page.html")
    assert "no <space> left" in page.text
    assert ("No round was trained." in page.text, page.charts()) == (True, [])
    assert "dirichlet-alpha" in page.text
    for name in ("metrics.jsonl", "config.json"):
        (copy / name).unlink()
        assert "no <space> left" in _page(copy, copy / "page.html").text


def test_a_way_to_predict_without_samples_has_no_line_and_a_grey_map(copy: Path) -> None:
    def blind(record: dict[str, Any]) -> None:
        for key in ("accuracy", "macro", "worst_class"):
            record[key]["audio only"] = None
        record["counts"]["audio only"] = {"correct": [0] * 10, "count": [0] * 10}

    _edit_records(copy, blind)
    page = _page(copy, copy / "page.html")
    assert '<th scope="row">audio only</th><td><strong>-</strong></td><td>-</td>' in page.source
    assert page.charts().count("class-accuracy") == 5


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _without(key: str) -> Callable[[Path], None]:
    return lambda path: _edit_records(path.parent, lambda record: record.pop(key))


def _other_classes(path: Path) -> None:
    _edit_config(path.parent, dataset={"classes": ["a"], "modalities": ["audio"]})


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("summary.md", Path.unlink, r"copy: the run is not finished \(no summary.md\): wait .* or run it again"),
        ("metrics.jsonl", Path.unlink, r"metrics\.jsonl: no such file; a run directory has one\. Run again"),
        ("metrics.jsonl", _cut, r"metrics\.jsonl line 4: not JSON .* cut or edited: run again"),
        ("metrics.jsonl", lambda path: path.write_text(""), r"metrics\.jsonl: holds no round; run again"),
        ("metrics.jsonl", lambda path: path.write_text("7\n"), r"line 1: expected an object, found '7'; run again"),
        ("metrics.jsonl", _without("counts"), r"line 1: 'counts' is missing; not written by this version: run again"),
        ("metrics.jsonl", _other_classes, r"line 1: counts of 'fused' are not those of 1 classes; run again"),
        ("matrix.json", _cut, r"matrix\.json: not written by this version .*: run again"),
        ("matrix.json", lambda path: path.write_text("[{}]"), r"matrix\.json: not written by this version"),
        ("config.json", Path.unlink, r"config\.json: no such file"),
        ("config.json", lambda path: path.write_text("{}"), r"config\.json: 'method' is missing"),
        ("config.json", lambda path: _edit_config(path.parent, dataset={}), r"config\.json dataset: 'classes' is miss"),
    ],
)
def test_a_broken_run_is_refused_with_what_where_and_what_to_do(
    copy: Path, name: str, damage: Callable[[Path], Any], words: str
) -> None:
    damage(copy / name)
    with pytest.raises(ReportError, match=words):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_two_runs_in_one_file_are_refused(copy: Path, fedavg_run: Path) -> None:
    both = (copy / "metrics.jsonl").read_text() + (fedavg_run / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(both)
    with pytest.raises(ReportError, match=r"metrics\.jsonl: its rounds predict in different ways; .* run again"):
        write_report(copy)


def test_what_is_neither_a_run_nor_a_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="nowhere: no such directory; give the directory of a run or of a bench"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"neither a run .* nor a bench .*; give the directory that `fedcmi run`"):
        write_report(tmp_path)


def test_the_page_of_a_bench_has_intervals_differences_and_the_best_in_bold(bench_dir: Path, tmp_path: Path) -> None:
    page = _page(bench_dir, tmp_path / "page.html")
    assert page.charts() == BENCH_CHARTS
    with (bench_dir / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prediction"] == "fused"]
    found = {m: [100 * float(row["accuracy"]) for row in rows if row["method"] == m] for m in ("fedavg", "fedcmi-plus")}
    (base, base_half), (plus, plus_half) = (mean_and_interval(values) for values in found.values())
    ahead, width = mean_and_interval([b - a for a, b in zip(*found.values(), strict=True)])
    cells = [f"{base:.1f} ± {base_half:.1f}", f"{plus:.1f} ± {plus_half:.1f} ({ahead:+.1f} ± {width:.1f})"]
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
        (lambda path: path.write_text("setting,method\n"), r"results\.csv: .*delete it and call `fedcmi bench` again"),
        (_drop_column, r"results\.csv: .*'?best'? .*delete it and call `fedcmi bench` again"),
        (
            lambda path: (path.parent / "comparison.json").unlink(),
            r"comparison\.json: no such file; call `fedcmi bench`",
        ),
        (lambda path: (path.parent / "comparison.json").write_text("[]"), r"comparison\.json: not written by this ver"),
        (_other_rows, r"comparison\.json: row 'fedavg' of results\.csv is missing; call `fedcmi bench` again"),
        (lambda path: shutil.rmtree(path.parent / "small" / "fedavg" / "seed1"), r"seed1: the run is not finished"),
        (lambda path: (path.parent / "bench.json").write_text("[]"), r"bench\.json: not written by `fedcmi bench`"),
    ],
)
def test_a_broken_bench_is_refused(bench_copy: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(bench_copy / "results.csv")
    with pytest.raises(ReportError, match=words):
        write_report(bench_copy)


def test_the_page_of_a_bench_keeps_to_the_tables_order_baseline_and_sentences(bench_copy: Path) -> None:
    """The baseline is the last row here; fedavg's seed 1 is not finished, so that it is marked and left out."""
    (bench_copy / "small" / "fedavg" / "seed1" / "summary.md").unlink()
    _edit_records(bench_copy / "small" / "fedavg" / "seed0", lambda record: record["refused"].append("why"))
    planned = plan({"small": {row: {"method": row} for row in ("fedavg", "fedcmi-plus")}}, 2, 4, bench_copy)
    table = write_results(planned, "fedcmi-plus", None, bench_copy)
    page = _page(bench_copy, bench_copy / "page.html")
    own, *others = re.findall(r"^\| fedavg \(1 seed\) \| (.*?) \| (.*?) \| (.*?) \|", table, re.MULTILINE)[0]
    assert re.fullmatch(r"\d+\.\d \([+-]\d+\.\d\)", own)
    cells = "".join(f"<td>{cell}</td>" for cell in (own, *others))
    assert f'<th scope="row">fedavg</th><td>1</td>{cells}' in page.source
    assert page.source.index('<th scope="row">fedavg') < page.source.index('<th scope="row">fedcmi-plus')
    assert "fedavg (1 seed)" in page.text.split("Accuracy of the methods")[1]
    for sentence in ("Left out, since seeds of it are missing: fedavg.", "missing: fedavg 3 in 1 of 1 runs."):
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
    """One run of fedavg lost its last of three rounds: its mean has two, and the other row's three."""
    metrics = bench_copy / "small" / "fedavg" / "seed1" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    results = pd.read_csv(bench_copy / "results.csv")
    setting = read_setting(bench_copy, "small", results, read_comparison(bench_copy))
    colours = {"fedavg": BLACK, "fedcmi-plus": COLOURS[0]}
    for over_bytes in (False, True):
        lines = method_lines(setting, colours, over_bytes)
        assert [(line.label, len(line.x), len(line.y)) for line in lines] == [("fedavg", 2, 2), ("fedcmi-plus", 3, 3)]


def test_a_validation_part_is_not_called_the_test_split(copy: Path, bench_copy: Path) -> None:
    for directory in (copy, *bench_copy.glob("*/*/seed*")):
        _edit_config(directory, **{"validation-share": 0.2})
    for directory in (copy, bench_copy):
        text = _page(directory, directory / "page.html").text
        assert "a validation part of the training split" in text
        assert "validation accuracy (%)" in text
        assert "test split" not in text
        assert "test accuracy" not in text


@pytest.mark.parametrize("made", ["tune.csv", "small/fedprox@lr=0.1"])
def test_the_directory_of_tuning_is_called_so(tmp_path: Path, made: str) -> None:
    """Finished or not."""
    (tmp_path / made).mkdir(parents=True) if "@" in made else (tmp_path / made).touch()
    (tmp_path / "bench.json").write_text('{"num-nodes": 4, "settings": {}}')
    with pytest.raises(ReportError, match=r"made by `fedcmi tune`, of which there is no page; look at tune\.csv"):
        write_report(tmp_path)


def test_runs_that_did_not_finish_are_named(bench_copy: Path) -> None:
    broken = bench_copy / "small" / "fedcmi" / "seed0"
    broken.mkdir(parents=True)
    (broken / "log.txt").write_text("error: ...")
    assert "small/fedcmi/seed0/log.txt" in _page(bench_copy, bench_copy / "page.html").text


def _long(source: Path, target: Path, rounds: int, nodes: int) -> None:
    """Make a run of many rounds and nodes out of a short one."""
    shutil.copytree(source, target)
    last = read_metrics(source)[-1]
    known = {str(node): ["audio", "visual"] for node in range(nodes)}
    more = {"known_nodes": known, "examples": dict.fromkeys(known, 50)}
    lines = [json.dumps({**last, **more, "round": number}) + "\n" for number in range(rounds + 1)]
    (target / "metrics.jsonl").write_text("".join(lines))


def test_a_long_run_stays_small(plus_run: Path, tmp_path: Path) -> None:
    _long(plus_run, tmp_path / "long", rounds=200, nodes=100)
    assert write_report(tmp_path / "long").stat().st_size < MOST_BYTES / 4


def test_a_large_bench_stays_small_and_says_which_methods_are_grey(plus_run: Path, tmp_path: Path) -> None:
    """30 methods and 60 rounds in one of four settings; the number of seeds changes lines, not their number."""
    rows = [f"setting,method,seed,prediction,accuracy,best,refused,{','.join(FIGURES)}"]
    for method in range(30):
        for seed in range(2):
            _long(plus_run, tmp_path / "half" / f"m{method}" / f"seed{seed}", rounds=60, nodes=20)
            rows += [
                f"half,m{method},{seed},{name},0.{method + 10}{seed},0.9,0{',0.5' * len(FIGURES)}"
                for name in ("fused", "audio only")
            ]
    (tmp_path / "results.csv").write_text("\n".join(rows))
    Comparison([f"m{number}" for number in range(30)], "m0", {"half": 0.5}).write(tmp_path)
    page = _page(tmp_path, tmp_path / "page.html")
    assert len(page.source.encode()) < MOST_BYTES / 8
    assert "grey: the 23 other methods, without intervals." in page.text
    assert page.text.count("others") == 2  # one entry in each of two legends
    for method in ("m0", *(f"m{number}" for number in range(24, 30))):
        assert page.text.count(f" {method} ") > page.text.count(" m12 ")


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    """Even where there is nothing to draw."""
    empty = partial(draw_lines, lines=[], xlabel="x", ylabel="y", limits=(0, 1))
    made = svg_chart("losses", "two words", "A <title>", "and more", 2, empty)
    assert made.id == "losses-two-words"
    assert 'role="img" aria-label="A &lt;title&gt;. and more"' in made.svg


def test_the_command_prints_the_path_or_the_reason(copy: Path) -> None:
    program = [sys.executable, "-m", "server_app.commands.main", "report", str(copy)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"report: {copy / 'report.html'}")
    _cut(copy / "metrics.jsonl")
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "metrics.jsonl line 4: not JSON" in done.stderr
