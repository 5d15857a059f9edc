"""Pages of runs and benches alike: no network, the same bytes, and where they go.

What is neither is refused.
"""

import re
from pathlib import Path

import commands
import matplotlib
import pytest
from pages import Page, cut, edit_config, page_of

from server_app.pages.report import watch_run, write_report
from server_app.run.reader import ReportError


@pytest.mark.parametrize("kind", ["run", "bench"])
def test_the_page_needs_no_network(plus_page: Path, bench_page: Path, kind: str) -> None:
    page = Page(plus_page if kind == "run" else bench_page)
    links = [
        value or ""
        for _, attributes in page.elements
        for key, value in attributes.items()
        if "href" in key
    ]
    sources = [
        value or ""
        for _, attributes in page.elements
        for key, value in attributes.items()
        if "src" in key
    ]
    assert any(link.startswith("#") for link in links)
    assert all(link.startswith(("#", "data:")) for link in [*links, *sources])
    assert set(re.findall(r"url\(.", page.source)) == {"url(#"}
    assert "@import" not in page.source
    assert not re.search(r"https?:", page.source)
    assert "default-src 'none'" in page.source


@pytest.mark.parametrize("kind", ["run", "bench"])
def test_the_same_files_give_the_same_bytes(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Whatever the user's matplotlibrc says."""
    names = ("plus_run", "plus_page") if kind == "run" else ("bench_dir", "bench_page")
    directory, first = map(request.getfixturevalue, names)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "svg.hashsalt": "other"}):
        again = write_report(directory, tmp_path / "new" / "again.html")
    assert again.read_bytes() == first.read_bytes()


def test_the_page_goes_into_the_directory_and_is_replaced(copy: Path) -> None:
    assert write_report(copy) == copy / "report.html"
    edit_config(copy, method="renamed")
    assert "renamed on " in Page(write_report(copy)).text


def test_a_run_that_cannot_be_read_leaves_no_page(copy: Path) -> None:
    cut(copy / "metrics.jsonl")
    with pytest.raises(ReportError, match=r"metrics\.jsonl line 4: not JSON"):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_what_is_neither_a_run_nor_a_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ReportError, match="nowhere: no such directory; give the directory of a run or of a bench"
    ):
        write_report(tmp_path / "nowhere")
    with pytest.raises(
        ReportError, match=r"neither a run .* nor a bench .*; give the directory that `fedcmi run`"
    ):
        write_report(tmp_path)


def test_a_validation_part_is_not_called_the_test_split(copy: Path, bench_copy: Path) -> None:
    for directory in (copy, *bench_copy.glob("*/*/seed*")):
        edit_config(directory, **{"validation-share": 0.2})
    for directory in (copy, bench_copy):
        text = page_of(directory, directory / "page.html").text
        assert "a validation part of the training split" in text
        assert "validation accuracy (%)" in text
        assert "test split" not in text
        assert "test accuracy" not in text


def test_the_command_prints_the_path_or_the_reason(copy: Path) -> None:
    done = commands.fedcmi("report", copy)
    assert (done.exit_code, done.stdout.strip()) == (0, f"report: {copy / 'report.html'}")
    cut(copy / "metrics.jsonl")
    done = commands.fedcmi("report", copy)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "metrics.jsonl line 4: not JSON" in done.stderr


def test_a_run_that_is_not_over_is_shown_as_far_as_it_came(copy: Path) -> None:
    """After two of three rounds, while the third is written; and before the first."""
    for name in ("summary.md", "matrix.json"):
        (copy / name).unlink()
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    metrics.write_text("".join(lines[:3]) + lines[3][:100], encoding="utf-8")
    (copy / "checkpoints" / "round-000002").mkdir(parents=True)
    text = Page(write_report(copy)).text
    assert (
        "2 of 3 rounds are done. Where the run does not go on by itself, go on with: fedcmi run "
        f"--resume {copy}" in text
    )
    assert "Accuracy over rounds" in text
    metrics.unlink()
    text = Page(write_report(copy)).text
    assert "0 of 3 rounds are done" in text
    assert "No round was trained." in text


def test_a_watched_page_follows_its_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there after round 0, read again by browsers, and rests when the run is over."""
    metrics, summary = copy / "metrics.jsonl", (copy / "summary.md").read_text(encoding="utf-8")
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / "summary.md").unlink()
    metrics.write_text(lines[0], encoding="utf-8")
    pages: list[str] = []

    def go_on(seconds: float) -> None:
        pages.append((copy / "report.html").read_text(encoding="utf-8"))
        if len(pages) < len(lines):
            metrics.write_text("".join(lines[: len(pages) + 1]), encoding="utf-8")
        else:
            (copy / "summary.md").write_text(summary, encoding="utf-8")

    monkeypatch.setattr("server_app.pages.report.time.sleep", go_on)
    assert watch_run(copy) == copy / "report.html"
    assert [f"{done} of 3 rounds are done" in page for done, page in enumerate(pages)] == [True] * 4
    refreshed = '<meta http-equiv="refresh" content="10">'
    assert all(refreshed in page for page in pages)
    assert refreshed not in (copy / "report.html").read_text(encoding="utf-8")
