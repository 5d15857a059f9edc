"""Commands on systems that lack what Linux has.

macOS and Windows are simulated by taking it away.
"""

import os
import signal
from pathlib import Path

import pytest
from commands import fedcmi

from fedcmi_flwr.machine import locks

QUICK = ["--engine", "in-process", "--num-nodes", "2", "--set", "local-epochs=1", "--rounds", "1"]


def test_a_run_in_process_and_its_report_need_nothing_of_linux(
    av_digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "posix_spawn")
    with pytest.warns(RuntimeWarning, match="has no file locks"):
        done = fedcmi("run", *QUICK, "--data", av_digits_dir, "--run-dir", tmp_path / "run")
    assert done.exit_code == 0, done.output
    done = fedcmi("report", tmp_path / "run")
    assert done.exit_code == 0, done.output


def test_a_system_without_hang_ups_has_the_other_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    done = fedcmi("bench", "no-such-setting", "--out", "nowhere")
    with monkeypatch.context() as patch:
        patch.delattr(signal, "SIGHUP")
        assert fedcmi("bench", "no-such-setting", "--out", "nowhere").output == done.output
