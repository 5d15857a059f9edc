"""Whole runs with differential privacy.

What they record, when they end, and what going on costs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from client_app.app import app as client_app
from fedcmi_flwr.aggregation.privacy import Privacy, PrivacyBudgetError
from server_app.launch.start import resolve, run_in_process
from server_app.pages.report import write_report
from server_app.run.directory import RunDirectoryError, read_metrics


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("privacy") / "toy", present)


LIGHT = {"local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "fraction-train": 1.0, "min-partition-size": 2,
         "partition": "iid", "device": "cpu", "num-server-rounds": 4, "dp-noise-multiplier": 5.0}  # fmt: skip


class RoundsAreOverError(Exception):
    """Ends a run as a test wants it."""


def run(directory: Path, data: Path, until: int | None = None, **changes: Any) -> list[str]:
    """Run 3 nodes with both modalities; end the run when round ``until`` is shown."""
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if line.startswith(f"round {until}/"):
            raise RoundsAreOverError

    keys = {**LIGHT, "data": str(data), "run-dir": str(directory), **changes}
    run_in_process(resolve(None, keys, []), 3, client_app, show)
    return lines


def test_a_run_trains_and_says_what_it_spent(tmp_path: Path, toy: Path) -> None:
    run(tmp_path / "run", toy)
    records = read_metrics(tmp_path / "run")
    privacy = Privacy(5.0, 1.0, 1.0, 1e-5)
    assert [record["privacy"] for record in records] == [
        None, *({"epsilon": pytest.approx(privacy.epsilon(4 * done)), "delta": 1e-5} for done in (1, 2, 3, 4))
    ]  # fmt: skip
    assert json.loads((tmp_path / "run" / "privacy.json").read_text()) == {
        "releases": {"0": 16, "1": 16, "2": 16}
    }
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert (
        f"differential privacy of nodes: epsilon {privacy.epsilon(16):.3g} at delta 1e-05"
        in summary
    )
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert f"epsilon {privacy.epsilon(16):.3g} at delta 1e-05" in page
    for record in records[1:]:
        assert (record["losses"], record["examples"], record["num_examples"]) == ({}, {}, 0)
        assert record["class_statistics"] == {"probability_sum": {}, "count": {}}
        assert (record["evaluated_on_nodes"], record["evaluated_by"]) == ({}, {})


def test_a_run_that_has_spent_its_budget_is_finished(tmp_path: Path, toy: Path) -> None:
    budget = Privacy(5.0, 1.0, 1.0, 1e-5).epsilon(11)
    run(tmp_path / "run", toy, **{"dp-max-epsilon": budget})
    assert [record["round"] for record in read_metrics(tmp_path / "run")] == [0, 1, 2]
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert "ended after 2 of 4 rounds: one more would exceed dp-max-epsilon" in summary


def test_a_budget_too_small_for_one_round_is_an_error(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(PrivacyBudgetError, match=r"maximum of 0\.1"):
        run(tmp_path / "run", toy, **{"dp-max-epsilon": 0.1})
    assert not (tmp_path / "run" / "summary.md").exists()


def test_a_run_that_goes_on_pays_for_the_rounds_that_it_does_again(
    tmp_path: Path, toy: Path
) -> None:
    """Killed after round 3, with a checkpoint of round 2: 3 + 2 rounds of 4 vectors, not 4."""
    keys = {"checkpoint-every": 2, "node-memory": "run-dir"}
    with pytest.raises(RoundsAreOverError):
        run(tmp_path / "run", toy, until=3, **keys)
    run(tmp_path / "run", toy, resume=True, **keys)
    records = read_metrics(tmp_path / "run")
    assert [record["round"] for record in records] == [0, 1, 2, 3, 4]
    privacy = Privacy(5.0, 1.0, 1.0, 1e-5)
    spent = [record["privacy"]["epsilon"] for record in records[1:]]
    assert spent == pytest.approx([privacy.epsilon(4 * rounds) for rounds in (1, 2, 4, 5)])


def test_a_run_whose_account_is_gone_does_not_go_on(tmp_path: Path, toy: Path) -> None:
    keys = {"node-memory": "run-dir"}
    with pytest.raises(RoundsAreOverError):
        run(tmp_path / "run", toy, until=2, **keys)
    (tmp_path / "run" / "privacy.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"privacy\.json.*has spent cannot be read"):
        run(tmp_path / "run", toy, resume=True, **keys)
