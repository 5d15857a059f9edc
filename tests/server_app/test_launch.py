"""Runs in one process, from the run-config to the run directory."""

from pathlib import Path

from client_app.app import app as client_app
from server_app import launch


def test_run_in_process(tmp_path: Path, av_digits_dir: Path) -> None:
    raw = launch.resolve(None, {"num-server-rounds": 1, "data": str(av_digits_dir)}, ["local-epochs=1"])
    raw["run-dir"] = str(tmp_path / "run")
    lines: list[str] = []
    launch.run_in_process(raw, 4, client_app, lines.append)
    assert [line.split(" | ")[0] for line in lines] == ["round 0/1", "round 1/1"]
