"""A run whose files are broken, or not over, is refused with what, where and what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import cut, edit_config, edit_records

from server_app.run.reader import ReportError, read_run


def _without(key: str) -> Callable[[Path], None]:
    return lambda path: edit_records(path.parent, lambda record: record.pop(key))


def _other_classes(path: Path) -> None:
    edit_config(path.parent, dataset={"classes": ["a"], "modalities": ["audio"]})


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (
            "summary.md",
            Path.unlink,
            r"copy: the run is not finished \(no summary.md\): wait .* or resume it",
        ),
        (
            "metrics.jsonl",
            Path.unlink,
            r"metrics\.jsonl: no such file; a run directory has one\. Run again",
        ),
        ("metrics.jsonl", cut, r"metrics\.jsonl line 4: not JSON .* cut or edited: run again"),
        (
            "metrics.jsonl",
            lambda path: path.write_text(""),
            r"metrics\.jsonl: holds no round; run again",
        ),
        (
            "metrics.jsonl",
            lambda path: path.write_text("7\n"),
            r"line 1: expected an object, found '7'; run again",
        ),
        (
            "metrics.jsonl",
            _without("counts"),
            r"line 1: 'counts' is missing; not written by this version: run again",
        ),
        (
            "metrics.jsonl",
            _other_classes,
            r"line 1: counts of 'fused' are not those of 1 classes; run again",
        ),
        ("matrix.json", cut, r"matrix\.json: not written by this version .*: run again"),
        (
            "matrix.json",
            lambda path: path.write_text("[{}]"),
            r"matrix\.json: not written by this version",
        ),
        ("config.json", Path.unlink, r"config\.json: no such file"),
        ("config.json", lambda path: path.write_text("{}"), r"config\.json: 'method' is missing"),
        (
            "config.json",
            lambda path: edit_config(path.parent, dataset={}),
            r"config\.json dataset: 'classes' is miss",
        ),
    ],
)
def test_a_broken_run_is_refused_with_what_where_and_what_to_do(
    copy: Path, name: str, damage: Callable[[Path], Any], words: str
) -> None:
    damage(copy / name)
    with pytest.raises(ReportError, match=words):
        read_run(copy)


def test_two_runs_in_one_file_are_refused(copy: Path, fedavg_run: Path) -> None:
    both = (copy / "metrics.jsonl").read_text() + (fedavg_run / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(both)
    with pytest.raises(
        ReportError, match=r"metrics\.jsonl: its rounds predict in different ways; .* run again"
    ):
        read_run(copy)
