"""Tables in a narrow terminal: long names can be told apart."""

import io

import pytest
from rich.console import Console

from server_app.commands.markdown import TerminalMarkdown
from server_app.figures.markdown import markdown_table

SENSORS = [
    f"accelerometer_of_the_{side}_{joint}"
    for side in ("left", "right")
    for joint in ("wrist", "knee", "foot")
]
FIGURES = ["mean of last 5 rounds", "last round", "macro", "worst class", "calibration error"]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_row_has_its_whole_name(width: int) -> None:
    names = ["fused", *(f"{name} only" for name in SENSORS)]
    lines = markdown_table(
        ["prediction", *FIGURES], [[name, *["50.0"] * len(FIGURES)] for name in names]
    )
    console = Console(width=width, file=io.StringIO(), soft_wrap=True)
    console.print(TerminalMarkdown("\n".join(lines)))
    text = console.file.getvalue()
    assert "…" not in text
    _, _, rows = text.rpartition("───")
    first_column = [line[1:].split("  ")[0] for line in rows.splitlines()]
    assert "".join(first_column).replace(" ", "") == "".join(names).replace(" ", "")
