"""data_prep.pipeline.execution: how many unusable files are put up with, and which settings there
are.
"""

from pathlib import Path

import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion


def test_unreadable_files_are_counted_and_grouped_by_reason() -> None:
    """A reason is the same where only its numbers differ, or the file's name before it."""
    bad = [
        Exclusion(f"{row}", "train", f"raw/{row}.wav", f"{row}.wav: ends at {row}.5 s")
        for row in range(25)
    ]
    bad.append(Exclusion("x", "test", "raw/x.wav;raw/x.flv#0-2.5s", "x.flv: not found"))
    Execution(max_bad=26).tolerate(bad)
    with pytest.raises(PrepError) as caught:
        Execution(max_bad=25).tolerate(bad, Path("rows/excluded.csv"))
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("26 source files cannot be used, max_bad = 25 allowed; ")
    assert lines == [
        "  25 files (raw/0.wav, raw/1.wav, raw/2.wav, ...): ends at 0.5 s",
        "  raw/x.flv: not found",
        "All of them are listed in rows/excluded.csv",
    ]


def test_nothing_is_put_up_with_unless_told() -> None:
    SERIAL.tolerate([])
    with pytest.raises(PrepError, match="1 source files cannot be used, max_bad = 0"):
        SERIAL.tolerate([Exclusion("a", "", "a.wav", "cut off")])


@pytest.mark.parametrize("settings", [{"workers": 0}, {"max_bad": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(PrepError, match="must be at least 1 and at least 0"):
        Execution(**settings)  # type: ignore[arg-type]
