"""How a run on Flower ended is what the SuperLink says, not what became of the client that follows
it.
"""

from pathlib import Path

import pytest

from server_app.launch import flower_cli
from server_app.launch.flower_cli import FlowerRunError, wait_for_end, why_failed
from server_app.launch.patience import Patience
from server_app.launch.run_log import FLOWER_LOG, first_exception, keep_log


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        (["finished:completed"], 1),
        (["running", "running", "finished:completed"], 3),
        (["pending", "starting", "finished:failed"], 3),
        (["not started"], 1),
    ],
)
def test_a_lost_client_is_not_the_runs_end(
    answers: list[str], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_cli, "ASK_AGAIN", 0.0)
    left, seen = list(answers), []
    assert wait_for_end(lambda: left.pop(0), lambda: seen.append(len(left))) == answers[-1]
    assert (left, len(seen)) == ([], looks)


def test_a_superlink_that_does_not_answer_for_a_while_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flower_cli, "ASK_AGAIN", 0.0)
    answers = iter(["", "", "running", "", "", "finished:completed", "", "", ""])

    def status() -> str:
        answer = next(answers)
        if not answer:
            raise FlowerRunError("no answer")
        return answer

    assert wait_for_end(status, lambda: None) == "finished:completed"
    with pytest.raises(FlowerRunError, match="no answer"):
        wait_for_end(status, lambda: None)


def test_a_run_whose_server_has_failed_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = Patience(tmp_path)
    assert not patience.is_over()
    (tmp_path / "error.txt").touch()
    assert not patience.is_over()
    monkeypatch.setattr("server_app.launch.patience.AFTER_ERROR", -1.0)
    assert patience.is_over()
    assert wait_for_end(lambda: "running", lambda: None, patience.is_over) == "running"


CHAINED = """INFO: starting
ERROR: Traceback (most recent call last):
  File "node.py", line 8, in start
    raise OSError
OSError: AF_UNIX path length cannot exceed 107 bytes

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
RuntimeError: Simulation Runtime crashed.
"""


def test_the_first_exception_of_a_log_is_the_cause() -> None:
    assert first_exception(CHAINED) == "OSError: AF_UNIX path length cannot exceed 107 bytes"
    assert first_exception("all is well") == ""


def test_a_log_is_kept_with_its_run(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(CHAINED, encoding="utf-8")
    assert keep_log(log, tmp_path / "run").read_text(encoding="utf-8") == CHAINED
    (tmp_path / "file").touch()
    assert keep_log(log, tmp_path / "file" / FLOWER_LOG) == log


@pytest.mark.parametrize(
    "said", [None, "", "OSError: [Errno 28] No space left on device: '/data'\n\nTraceback ..."]
)
def test_a_run_says_why_it_failed_though_its_disk_was_full(
    tmp_path: Path, said: str | None
) -> None:
    log = tmp_path / "run.log"
    log.write_text(CHAINED, encoding="utf-8")
    if said is not None:
        (tmp_path / "error.txt").write_text(said, encoding="utf-8")
    reason = why_failed(tmp_path, log, {}, "finished:failed")
    assert reason.startswith("the run ended as 'finished:failed'")
    assert (said or "AF_UNIX path length cannot exceed").splitlines()[0] in reason
