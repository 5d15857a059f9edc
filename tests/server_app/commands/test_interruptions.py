"""Ctrl-C and a polite kill: one sentence that says how to go on, whatever comes after it."""

import os
import signal
from pathlib import Path

import pytest
from commands import POLITE, fedcmi

from server_app.commands.terminal import end_with_what_was_started
from server_app.launch.progress import RoundProgress

QUICK = ["--engine", "in-process", "--num-nodes", "2", "--set", "local-epochs=1", "--rounds", "3"]


@pytest.fixture
def _signals_as_they_were() -> object:
    before = {number: signal.getsignal(number) for number in POLITE}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_they_were")
@pytest.mark.parametrize("number", POLITE)
def test_only_the_first_signal_counts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    end_with_what_was_started(lambda: "do [that].")
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    for later in POLITE:
        os.kill(os.getpid(), later)
    assert capfd.readouterr().err == "interrupted; do [that].\n"


@pytest.mark.parametrize("last", [0, 1])
def test_an_interrupted_run_says_how_to_go_on(
    last: int, av_digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After round 0 there is nothing to go on from.

    After round 1 there is, and the command that is printed works.
    """
    update, rounds = RoundProgress.update, iter(range(9))

    def interrupted(progress: RoundProgress) -> None:
        update(progress)
        if next(rounds) == last:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RoundProgress, "update", interrupted)
        done = fedcmi("run", *QUICK, "--data", av_digits_dir, "--run-dir", tmp_path / "run")
    assert done.exit_code == 128 + signal.SIGINT
    if last == 0:
        advice = "has no checkpoint yet: start the run again, with another run directory."
        assert done.stderr == f"interrupted; {tmp_path}/run {advice}\n"
        return
    sentence, _, command = done.stderr.strip().partition(": ")
    assert (sentence, command) == ("interrupted; go on with", f"fedcmi run --resume {tmp_path}/run")
    launch = tmp_path / "run" / "launch.json"
    written = launch.read_text(encoding="utf-8")
    launch.write_text(written.replace('"num_nodes": 2', '"num_nodes": 3'), encoding="utf-8")
    refused = fedcmi(*command.split()[1:])
    assert (refused.exit_code, "was trained with 2 nodes" in refused.stderr) == (1, True)
    launch.write_text(written, encoding="utf-8")
    assert fedcmi(*command.split()[1:]).exit_code == 0
    assert (tmp_path / "run" / "summary.md").is_file()
