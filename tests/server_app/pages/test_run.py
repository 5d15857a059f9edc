"""The page of a run.

What is on it, what is escaped, and what it says of a run that failed or is from before.
"""

from pathlib import Path
from typing import Any

from pages import MOST_BYTES, Page, edit_config, edit_records, lengthen, page_of

from server_app.pages.report import write_report
from server_app.pages.run import NO_TEMPERATURES
from server_app.run.directory import read_metrics
from server_app.run.matrix import read_matrix
from server_app.run.records import final_accuracy, percent

RUN_CHARTS = [
    "accuracy-over-rounds",
    "accuracy-over-bytes",
    "losses",
    *["class-accuracy"] * 5,
    "dominance",
]
FAIRNESS_CHARTS = ["fairness-classes", "fairness-nodes"]


def test_the_page_of_a_run_has_its_table_charts_settings_and_environment(
    plus_run: Path, plus_page: Path
) -> None:
    page = Page(plus_page)
    records = read_metrics(plus_run)
    weak = {name for record in records for name in record["measured"]["ratio"]}
    assert page.charts() == [*RUN_CHARTS, *["temperature"] * len(weak), *FAIRNESS_CHARTS, "nodes"]
    for name, value in final_accuracy(records).items():
        assert (
            f'<th scope="row">{name}</th><td><strong>{percent(value)}</strong></td>' in page.source
        )
    for text in (
        "fedcmi-plus on",
        "dirichlet-alpha",
        "kd-temperature-scaling",
        "torch",
        "device",
        "small-cnn",
    ):
        assert text in page.text
    assert "No reply was refused or missing." in page.text
    for row in read_matrix(plus_run / "matrix.json"):
        assert (
            f'<th scope="row">{"+".join(row["modalities"])}</th><td>{row["rule"]}</td>'
            in page.source
        )
    assert "There was no validation data to choose on." in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_nodes_that_never_replied_are_said_to_be_unknown(plus_run: Path, plus_page: Path) -> None:
    replied = {node for record in read_metrics(plus_run) for node in record["examples"]}
    assert 0 < len(replied) < 6
    expected = (
        f"{6 - len(replied)} of 6 never sent a reply that was used, so their samples are not known."
    )
    assert expected in Page(plus_page).text


def test_a_run_of_before_says_that_its_samples_were_not_noted(copy: Path) -> None:
    edit_records(copy, lambda record: record.pop("examples"))
    page = page_of(copy, copy / "page.html")
    assert "made by a version that did not note the samples of each node" in page.text
    assert "never sent a reply" not in page.text


def test_a_method_without_a_teacher_has_a_sentence_in_place_of_charts(
    fedavg_run: Path, tmp_path: Path
) -> None:
    page = page_of(fedavg_run, tmp_path / "page.html")
    assert NO_TEMPERATURES in page.text
    assert not {"dominance", "temperature"} & set(page.charts())
    assert "nodes" in page.charts()


def test_what_others_wrote_is_text_and_never_markup(copy: Path) -> None:
    evil = '<script>alert(1)</script>&amp;"$x$'
    edit_config(
        copy, method=evil, dataset={"classes": [evil] * 10, "modalities": ["audio", "visual"]}
    )
    edit_records(
        copy, lambda record: record["refused"].append(f"no <img src=x onerror=alert(2)> {evil}")
    )
    page = page_of(copy, copy / "page.html")
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert f"{evil} on " in page.text
    assert "round 3: no <img src=x onerror=alert(2)>" in page.text
    # The label of a class
    assert "<script>alert(1)</s" in page.text.split("Per class")[1].split("Dominance")[0]


def test_a_failed_run_says_why_and_shows_what_there_is(copy: Path) -> None:
    (copy / "error.txt").write_text("RoundFailedError: no <space> left\n\nTraceback ...\n")
    (copy / "summary.md").unlink()
    page = page_of(copy, copy / "page.html")
    assert "RoundFailedError: no <space> left" in page.text
    assert "accuracy-over-rounds" in page.charts()
    first = (copy / "metrics.jsonl").read_text().splitlines()[0]
    (copy / "metrics.jsonl").write_text(first + "\n")
    page = page_of(copy, copy / "page.html")
    assert "no <space> left" in page.text
    assert ("No round was trained." in page.text, page.charts()) == (True, [])
    assert "dirichlet-alpha" in page.text
    for name in ("metrics.jsonl", "config.json"):
        (copy / name).unlink()
        assert "no <space> left" in page_of(copy, copy / "page.html").text


def test_a_way_to_predict_without_samples_has_no_line_and_a_grey_map(copy: Path) -> None:
    def blind(record: dict[str, Any]) -> None:
        for key in ("accuracy", "macro", "worst_class"):
            record[key]["audio only"] = None
        record["counts"]["audio only"] = {"correct": [0] * 10, "count": [0] * 10}

    edit_records(copy, blind)
    page = page_of(copy, copy / "page.html")
    assert '<th scope="row">audio only</th><td><strong>-</strong></td><td>-</td>' in page.source
    assert page.charts().count("class-accuracy") == 5


def test_a_long_run_stays_small(plus_run: Path, tmp_path: Path) -> None:
    lengthen(plus_run, tmp_path / "long", rounds=200, nodes=100)
    assert write_report(tmp_path / "long").stat().st_size < MOST_BYTES / 4
