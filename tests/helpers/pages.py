"""Pages of runs and benches as tests read them, and runs as tests change them."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from server_app.pages.report import write_report
from server_app.run.directory import read_metrics

MOST_BYTES = 6_000_000
"""Of a page."""


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


def page_of(directory: Path, out: Path) -> Page:
    """Write the page of a run or a bench, and read it."""
    return Page(write_report(directory, out))


def edit_config(directory: Path, **changes: Any) -> None:
    """Give keys of a run's config.json other values."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_records(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every round of a run."""
    records = read_metrics(directory)
    for record in records:
        change(record)
    (directory / "metrics.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records)
    )


def cut(path: Path) -> None:
    """Remove the end of a file."""
    path.write_bytes(path.read_bytes()[:-50])


def lengthen(source: Path, target: Path, rounds: int, nodes: int) -> None:
    """Make a run of many rounds and nodes out of a short one."""
    shutil.copytree(source, target)
    last = read_metrics(source)[-1]
    known = {str(node): ["audio", "visual"] for node in range(nodes)}
    more = {"known_nodes": known, "examples": dict.fromkeys(known, 50)}
    lines = [json.dumps({**last, **more, "round": number}) + "\n" for number in range(rounds + 1)]
    (target / "metrics.jsonl").write_text("".join(lines))
