"""Runs in one process, from the run-config to the run directory."""

from pathlib import Path

import pytest

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from server_app.launch.progress import StartUp
from server_app.launch.start import resolve, run_in_process


def test_run_in_process(tmp_path: Path, av_digits_dir: Path) -> None:
    raw = resolve(None, {"num-server-rounds": 1, "data": str(av_digits_dir)}, ["local-epochs=1"])
    raw["run-dir"] = str(tmp_path / "run")
    lines: list[str] = []
    run_in_process(raw, 4, client_app, lines.append)
    starts = [line.split(" | ")[0] for line in lines]
    assert starts == ["nodes train one after the other on cpu", "round 0/1", "round 1/1"]


def test_start_up_is_broken_down_by_hand() -> None:
    start_up = StartUp()
    start_up.begin, start_up.running = 1000.0, 1004.5
    start_up.note_running()
    assert start_up.line(1006.0, {"seconds": 15.0, "asking_seconds": 12.0}) == (
        "start-up: SuperLink 4.5 s, bundle and server 1.5 s, Ray's actors and the nodes' answers "
        "12.0 s; first round then 3.0 s"
    )


def test_paths_are_absolute_and_too_few_nodes_are_refused_at_once(tmp_path: Path) -> None:
    raw = resolve(None, {"data": "data/somewhere"}, ["run-dir=runs/here"])
    assert (raw["data"], raw["run-dir"]) == (
        str(Path("data/somewhere").absolute()),
        str(Path("runs/here").absolute()),
    )
    raw = resolve(None, {}, [f"run-dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="num-nodes = 1: fewer than min-available-nodes = 2"):
        run_in_process(raw, 1, client_app, lambda line: None)
