"""The pages as headless Chromium shows them.

Drawn, unclipped, quiet on the console, readable on a phone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from server_app.pages import html

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
]  # fmt: skip
BLUE, WHITE = 0x0072B2, 0xFFFFFF
"""The first colour of the charts, and the page's own."""
FRAME = """<!DOCTYPE html><body><script>
function measure(frame) {
  const page = frame.contentDocument;
  const charts = [...page.querySelectorAll("figure svg")].map(svg => {
    const own = svg.getBoundingClientRect();
    const shapes = [...svg.querySelectorAll("path, rect, use, image")].map(e => e.getBoundingClientRect());
    const texts = [...svg.querySelectorAll("text")].map(e => [e.textContent, e.getBoundingClientRect()]);
    const outside = ([_, box]) => box.left < own.left - 4 || box.right > own.right + 4
      || box.top < own.top - 4 || box.bottom > own.bottom + 4;
    return {id: svg.closest("figure").id, width: own.width, height: own.height, texts: texts.length,
      drawn: shapes.filter(box => box.width > 0 || box.height > 0).length,
      clipped: texts.filter(outside).map(([text, _]) => text)};
  });
  const sizes = {charts, screen: frame.contentWindow.innerWidth, page: page.documentElement.scrollWidth};
  const found = document.createElement("pre");
  found.textContent = JSON.stringify(sizes);
  document.body.replaceChildren(found);
}
</script><iframe onload="measure(this)" style="border: 0; height: 900px; width: WIDTHpx" srcdoc="PAGE"></iframe>"""
"""A browser window cannot be as narrow as a phone, but a frame in it can."""

Browser = Callable[..., tuple[str, str]]


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Return a function that opens a page and returns what the browser wrote to stdout and to its
    log.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and os.environ.get("CI"):
        pytest.fail(f"none of {', '.join(NAMES)} is installed: apt-get install chromium")
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")

    def look(page: Path, *options: str) -> tuple[str, str]:
        profile = tmp_path / f"profile{len(list(tmp_path.glob('profile*')))}"
        command = [program, *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, log = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the browser and the processes that it started
            raise
        assert process.returncode == 0, log
        return output, log

    return look


@pytest.fixture(params=["plus_page", "bench_page"], ids=["run", "bench"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of the page of a run or of a bench."""
    return Path(shutil.copy(request.getfixturevalue(request.param), tmp_path / "page.html"))


def _complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if ":CONSOLE" in line]


def _measure(browser: Browser, page: Path, width: int) -> dict[str, Any]:
    """Show the page in a frame, and say how large everything is."""
    frame = page.with_name("frame.html")
    text = escape(page.read_text(encoding="utf-8"))
    frame.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", text), encoding="utf-8")
    dom, _ = browser(frame, "--window-size=1400,1000", "--hide-scrollbars", "--dump-dom")
    found = re.search(r"<pre>(.*)</pre>", dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    sizes: dict[str, Any] = json.loads(unescape(found[1]))
    return sizes


@pytest.mark.parametrize("width", [1280, 390])
def test_every_chart_is_drawn_and_nothing_is_cut_off(
    browser: Browser, page: Path, width: int
) -> None:
    sizes = _measure(browser, page, width)
    expected = re.findall(r'<figure id="([^"]*)"', page.read_text(encoding="utf-8"))
    assert [chart["id"] for chart in sizes["charts"]] == expected
    assert len(expected) >= 4
    for chart in sizes["charts"]:
        assert (chart["width"] > 300, chart["height"] > 100) == (True, True), chart
        assert (chart["drawn"] >= 10, chart["texts"] >= 4) == (True, True), chart
        assert chart["clipped"] == [], chart
    # Nothing makes the page wider than the screen
    assert (sizes["screen"], sizes["page"]) == (
        width,
        width,
    )


def test_what_is_cut_off_would_be_noticed(
    browser: Browser, plus_page: Path, tmp_path: Path
) -> None:
    text, page = plus_page.read_text(encoding="utf-8"), tmp_path / "page.html"
    page.write_text(
        text.replace("test accuracy (%)", "accuracy " * 12).replace(
            "<h1>", "<h1 style='width: 900px'>"
        )
    )
    sizes = _measure(browser, page, 390)
    assert sizes["page"] > 900
    assert {chart["id"].split("-")[0] for chart in sizes["charts"] if chart["clipped"]} == {
        "accuracy"
    }


def test_the_browser_has_nothing_to_complain_about(browser: Browser, page: Path) -> None:
    dom, log = browser(page, "--dump-dom")
    assert 'data-chart="accuracy-over-rounds"' in dom
    assert _complaints(log) == []


@pytest.mark.parametrize(
    "fault",
    [
        "<script>console.error('on purpose')</script>",
        "<script>undefinedFunction()</script>",
        "<img src='nowhere.png'>",
    ],
)
def test_a_faulty_page_would_be_noticed(browser: Browser, tmp_path: Path, fault: str) -> None:
    """The policy of every page forbids the script and the picture, and the browser says so."""
    faulty = tmp_path / "faulty.html"
    faulty.write_text(html.page("A page", fault), encoding="utf-8")
    assert _complaints(browser(faulty, "--dump-dom")[1])


def test_an_error_of_a_script_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.html"
    faulty.write_text("<p>text</p><script>console.error('on purpose')</script>")
    [complaint] = _complaints(browser(faulty, "--dump-dom")[1])
    assert "on purpose" in complaint


def _pixels(browser: Browser, page: Path) -> np.ndarray:
    """Return the colours of a screenshot, [pixels] of 0xRRGGBB."""
    picture = page.with_suffix(".png")
    browser(page, "--window-size=1280,1600", "--hide-scrollbars", f"--screenshot={picture}")
    image = imread(picture)
    assert image.shape[:2] == (1600, 1280)
    red, green, blue = np.rint(255 * image[..., :3]).astype(np.int64).reshape(-1, 3).T
    return (red << 16) + (green << 8) + blue


def test_the_screenshot_shows_charts(browser: Browser, page: Path) -> None:
    pixels = _pixels(browser, page)
    assert (pixels == BLUE).sum() > 500
    assert len(np.unique(pixels)) > 100
    assert (pixels == WHITE).mean() > 0.3  # dark text on white


def test_a_screenshot_without_charts_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    blank = tmp_path / "blank.html"
    blank.write_text("<!DOCTYPE html><p>No chart")
    assert not (_pixels(browser, blank) == BLUE).any()
