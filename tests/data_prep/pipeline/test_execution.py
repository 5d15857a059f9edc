"""data_prep.pipeline.execution: how many unusable files are put up with, and which settings there are."""

import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion


def test_unreadable_files_are_counted_and_named() -> None:
    bad = [Exclusion(f"{row}", "train", f"raw/{row}.wav", f"reason {row}, really") for row in range(25)]
    Execution(max_bad=25).tolerate(bad)
    message = r"25 source files cannot be used, max_bad = 24(?s:.*)raw/0\.wav: reason 0"
    with pytest.raises(PrepError, match=message) as caught:
        Execution(max_bad=24).tolerate(bad)
    assert "and 5 more" in str(caught.value)


def test_nothing_is_put_up_with_unless_told() -> None:
    SERIAL.tolerate([])
    with pytest.raises(PrepError, match="1 source files cannot be used, max_bad = 0"):
        SERIAL.tolerate([Exclusion("a", "", "a.wav", "cut off")])


@pytest.mark.parametrize("settings", [{"workers": 0}, {"max_bad": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(PrepError, match="must be at least 1 and at least 0"):
        Execution(**settings)  # type: ignore[arg-type]
