"""How a run on Flower ended is what the SuperLink says, not what became of the client that follows it."""

import pytest

from server_app.launch import flower_cli
from server_app.launch.flower_cli import wait_for_end


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        (["finished:completed"], 1),
        (["running", "running", "finished:completed"], 3),
        (["pending", "starting", "finished:failed"], 3),
        (["not started"], 1),
    ],
)
def test_a_lost_client_is_not_the_runs_end(answers: list[str], looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_cli, "ASK_AGAIN", 0.0)
    left, seen = list(answers), []
    assert wait_for_end(lambda: left.pop(0), lambda: seen.append(len(left))) == answers[-1]
    assert (left, len(seen)) == ([], looks)
