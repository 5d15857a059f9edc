"""The time that a run will still take, by hand."""

import time

import pytest

from server_app.launch.time_left import TimeLeft


def test_the_mean_of_the_rounds_that_were_seen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went on after round 4: rounds 5 to 7 took 40 s, so 13 more take 260 s."""
    left = TimeLeft(20)
    for server_round, now, expected in (
        (5, 100.0, None),
        (6, 110.0, 140.0),
        (7, 140.0, 260.0),
        (20, 300.0, None),
    ):
        monkeypatch.setattr(time, "monotonic", lambda moment=now: moment)
        left.note(server_round)
        assert left.seconds() == expected


def test_it_is_told_with_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    left = TimeLeft(3)
    assert left.text() == ""
    for server_round, now in ((0, 0.0), (1, 90.0)):
        monkeypatch.setattr(time, "monotonic", lambda moment=now: moment)
        left.note(server_round)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert (
        left.text() == f"about 3 min left, until {time.strftime('%H:%M', time.localtime(1180.0))}"
    )
