"""A run directory belongs to one launch at a time, and runs that begin together do not
share one.
"""

import json
from pathlib import Path

import pytest

from fedcmi_flwr.config.fields import ConfigError
from server_app.launch.record import LAUNCH, Launch, begin, claimed, go_on, note
from server_app.launch.start import resolve
from server_app.run.directory import RunDirectoryError, new_run_dir
from server_app.run.resume import RunFinishedError


def test_runs_of_the_same_second_get_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20261127-120000")
    found = [new_run_dir(tmp_path / "runs", "fedavg", 3).name for _ in range(3)]
    assert found == [f"20261127-120000-fedavg-seed3{suffix}" for suffix in ("", "-2", "-3")]


def test_nothing_is_written_into_a_directory_where_another_trains(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    options = {"data": str(av_digits_dir)}
    with begin(None, options, ["lr=0.01"], tmp_path / "run", 4, "in-process") as first:
        written = (first.run_dir / LAUNCH).read_bytes()
        with (
            pytest.raises(RunDirectoryError, match="another process is training there"),
            begin(None, options, ["lr=0.1"], tmp_path / "run", 6, "in-process"),
        ):
            pass
        assert (first.run_dir / LAUNCH).read_bytes() == written
    assert json.loads(written)["num_nodes"] == 4
    with begin(None, options, ["lr=0.1"], tmp_path / "run", 6, "in-process") as second:
        # The first left no round
        assert second.num_nodes == 6


def test_a_second_resume_is_refused_at_once(tmp_path: Path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(RunDirectoryError, match="another process"),
        claimed(tmp_path),
    ):
        pass


def test_options_of_a_finished_run_are_refused(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "summary.md"):
        (tmp_path / name).touch()
    with (
        pytest.raises(RunFinishedError, match="nothing to resume"),
        go_on(tmp_path, None, {}, [], None, None),
    ):
        pass
    raw = resolve(None, {"lr": 0.1}, [f"run-dir={tmp_path}"])
    note(Launch(raw, 4, "in-process"))
    for asked, words in (
        ({"num-server-rounds": 5}, "More rounds can follow"),
        ({"lr": 0.2}, "would have no effect"),
    ):
        with pytest.raises(ConfigError, match=words), go_on(tmp_path, None, asked, [], None, None):
            pass
