"""Runs whose network fails: what is recorded, when they end, and that they can go on."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from client_app.app import app as client_app
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.nodes import RoundFailedError
from server_app.launch.start import resolve, run_in_process
from server_app.pages.run import run_page
from server_app.run.directory import read_metrics
from server_app.run.reader import read_run
from server_app.run.records import round_line

NODES = 3
LIGHT = {"num-server-rounds": 6, "local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "min-partition-size": 2,
         "device": "cpu", "method": "fedcmi-plus", "fraction-train": 1.0, "checkpoint-every": 4}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("failed-rounds") / "toy", present)


@pytest.fixture
def network_down(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[int]], None]:
    """Return a switch: in these rounds no reply to a train message arrives."""
    connected = LocalGrid.send_and_receive

    def down_in(rounds: Iterable[int]) -> None:
        def send_and_receive(
            grid: LocalGrid, messages: Iterable[Message], **more: Any
        ) -> list[Message]:
            asked = list(messages)
            trains = [
                message.content["config"]["server-round"]
                for message in asked
                if "arrays" in message.content
            ]
            return [] if set(trains) & set(rounds) else list(connected(grid, asked, **more))

        monkeypatch.setattr(LocalGrid, "send_and_receive", send_and_receive)

    return down_in


def run(directory: Path, data: Path, **changes: Any) -> list[str]:
    shown: list[str] = []
    raw = resolve(None, {**LIGHT, "data": str(data), "run-dir": str(directory), **changes}, [])
    run_in_process({**raw, "node-memory": "run-dir"}, NODES, client_app, shown.append)
    return shown


def model(directory: Path) -> dict[str, bytes]:
    return {
        name: value.tobytes() for name, value in load_file(directory / "model.safetensors").items()
    }


def test_a_failed_round_is_recorded_and_the_run_goes_on(
    tmp_path: Path, toy: Path, network_down: Callable[..., None]
) -> None:
    network_down([2, 3])
    shown = run(tmp_path / "run", toy)
    records = read_metrics(tmp_path / "run")
    assert [record["round"] for record in records] == [0, 1, 2, 3, 4, 5, 6]
    assert [bool(record["failed"]) for record in records] == [
        False,
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [len(record["refused"]) for record in records] == [0, 0, 3, 3, 0, 0, 0]
    assert (
        records[1]["accuracy"]
        == records[2]["accuracy"]
        == records[3]["accuracy"]
        != records[4]["accuracy"]
    )
    assert ["3 refused | FAILED" in line for line in shown[1:]] == [
        bool(r["failed"]) for r in records
    ]
    assert "FAILED" not in round_line(records[1], 6)
    assert (
        "- failed rounds: 2\n  - round 2: none of 3 replies"
        in (tmp_path / "run" / "summary.md").read_text()
    )
    assert "round 3: none of 3 replies" in run_page(read_run(tmp_path / "run"))


def test_more_failed_rounds_than_the_budget_end_the_run_and_it_can_go_on(
    tmp_path: Path, toy: Path, network_down: Callable[..., None]
) -> None:
    """Rounds 2 and 3 fail, one is put up with.

    No checkpoint was due, so the one left is of the last that succeeded.
    """
    network_down([2, 3])
    with pytest.raises(RoundFailedError, match="round 3: none of 3 replies can be used"):
        run(tmp_path / "run", toy, **{"failure-budget": 1})
    assert (
        (tmp_path / "run" / "error.txt")
        .read_text()
        .startswith("RoundFailedError: round 3: none of 3")
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["round-000001"]
    network_down([2])
    run(tmp_path / "run", toy, resume=True, **{"failure-budget": 1})
    run(tmp_path / "whole", toy, **{"failure-budget": 1})
    assert model(tmp_path / "run") == model(tmp_path / "whole")
    records, others = (
        [oracle.untimed(record) for record in read_metrics(tmp_path / name)]
        for name in ("run", "whole")
    )
    assert json.dumps(records) == json.dumps(others)
