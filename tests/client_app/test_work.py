"""Nodes that do more or less than the others in a round, and what of it counts."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from federated import Federated, federate

from client_app.budget import Budget
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.node import read_node_config
from fedcmi_flwr.config.work import WorkConfig
from fedcmi_flwr.methods.scaffold import Scaffold
from fedcmi_flwr.types import Batch

NODES = ["audio+visual"] * 2


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(32, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("work") / "toy", present)


def trained(directory: Path, toy: Path, **changes: Any) -> Federated:
    found = federate(directory, toy, NODES, method="scaffold", **changes)
    found.round(1)
    return found


def same(first: Federated, second: Federated, partition: int) -> bool:
    """Return whether a node sent the same weights in both."""
    arrays = [found.update(found.replies[partition], partition).arrays for found in (first, second)]
    return all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_each_node_passes_over_its_samples_as_often_as_it_is_told(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCAFFOLD counts the steps that were taken: 16 samples are 2 batches, so 2 and 6 of them."""
    steps: list[int] = []
    finish = Scaffold.finish

    def noting(method: Scaffold, model: Any, local: Any, taken: Any) -> Any:
        steps.append(taken.count)
        return finish(method, model, local, taken)

    monkeypatch.setattr(Scaffold, "finish", noting)
    mixed = trained(tmp_path / "mixed", toy, local_epochs=3, node_epochs="0=1")
    assert steps == [2, 6]
    one, three = (trained(tmp_path / str(epochs), toy, local_epochs=epochs) for epochs in (1, 3))
    assert [same(mixed, one, 0), same(mixed, three, 1)] == [True, True]
    assert not same(one, three, 0)


def test_a_node_whose_time_is_over_sends_what_it_has(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock by which each look takes 10 s ends a budget of 15 s in the first epoch.

    That of one epoch of 2 steps.
    """
    clock = itertools.count(0, 10)
    budgeted = federate(
        tmp_path / "budget", toy, NODES, method="scaffold", local_epochs=3, time_budget=15.0
    )
    with monkeypatch.context() as patch:
        patch.setattr("client_app.budget.time.monotonic", lambda: float(next(clock)))
        budgeted.round(1)
    one = trained(tmp_path / "one", toy, local_epochs=1)
    assert [same(budgeted, one, partition) for partition in range(2)] == [True, True]


def batches() -> Iterator[Batch]:
    yield from [oracle.batch([[1, 1], [1, 1]])] * 5


def test_the_first_batch_is_trained_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(Budget(1e-9).within(batches()))) == 1
    assert len(list(Budget(0.0).within(batches()))) == 5
    budget, now = Budget(2.5), iter([0.0, 1.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    assert len(list(budget.within(batches()))) == 3
    assert budget.spent


@pytest.mark.parametrize("text", ["0", "a=1", "0=0", "0=1.5", "0=x", "0=1 0=2", "-1=2"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="node-epochs = "):
        WorkConfig(text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("local-epochs", 0, "an integer from 1"), ("time-budget", -1.0, "a number from 0")],
)
def test_a_device_has_the_same_ranges(key: str, value: float, words: str) -> None:
    raw = {"partition-id": 0, "modalities": "audio"}
    assert getattr(read_node_config({**raw, key: 3}), key.replace("-", "_")) == 3
    with pytest.raises(ConfigError, match=f"node-config {key} = {value}: must be {words}"):
        read_node_config({**raw, key: value})
