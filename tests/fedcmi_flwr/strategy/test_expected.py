"""What nobody asked for is refused, since it would stay in every record and table of the run.

Devices go by name.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
from federated import Federated, federate
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from client_app.app import app as client_app
from fedcmi_flwr.machine.node_names import called
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.expected import MOST_NAMES, ExpectedNames
from fedcmi_flwr.strategy.nodes import NodeRegistry
from fedcmi_flwr.wire.packing import WireError
from server_app.launch.start import resolve

Change = Callable[[list[Message]], list[Message]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(24, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("expected") / "toy", present)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Federated:
    directory = tmp_path_factory.mktemp("run")
    return federate(
        directory, toy, ["audio+visual", "visual"], method="fedcmi-plus", fraction_evaluate=1.0
    )


def invents(prefixes: tuple[str, ...], count: int) -> Change:
    """Return a change by which the first node reports names of its own."""

    def change(replies: list[Message]) -> list[Message]:
        metrics = replies[0].content["metrics"]
        for prefix in prefixes:
            known = next(key for key in metrics if key.startswith(prefix))
            for number in range(count):
                metrics[f"{prefix}invented {number}"] = metrics[known]
        return replies

    return change


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "the loss term 'invented 0' was not asked for"), (10_000, "loss terms; at most 64")],
)
def test_a_reply_with_invented_loss_terms_is_refused(
    nodes: Federated, count: int, words: str
) -> None:
    nodes.round(1, invents(("loss-sum.", "loss-count."), count))
    (line,) = nodes.strategy.report.refused
    assert "Reply of node 1001 (partition 0, audio+visual) refused: metrics: " in line
    assert words in line
    assert set(nodes.strategy.report.losses) <= {"fused", "self", "kd", "surrogate"}


@pytest.mark.parametrize("count", [0, 1, 100])
def test_an_evaluation_of_what_nobody_asked_for_is_refused(nodes: Federated, count: int) -> None:
    nodes.round(1)
    strategy, model = (
        nodes.strategy,
        ArrayRecord({name: Array(value) for name, value in nodes.arrays.items()}),
    )
    config = ConfigRecord(nodes.federation.task_config())
    messages = list(strategy.configure_evaluate(1, model, config, nodes.grid))
    replies = list(nodes.grid.send_and_receive(messages))
    strategy.aggregate_evaluate(1, invents(("correct.", "count."), count)(replies))
    assert set(strategy.report.evaluated) == {"fused", "visual only", "visual head"} | (
        set() if count else {"audio only", "audio head"}
    )
    assert len(strategy.report.refused) == bool(count)


def test_where_nothing_is_known_only_the_number_of_names_is_bounded() -> None:
    """An app with nodes of its own calls its losses and predictions as it likes."""
    names = [f"term {number}" for number in range(MOST_NAMES)]
    ExpectedNames().check_terms(names)
    ExpectedNames().check_predictions(names)
    with pytest.raises(WireError, match="65 predictions; at most 64 are taken"):
        ExpectedNames().check_predictions([*names, "one more"])


def test_a_device_is_called_by_its_name(toy: Path) -> None:
    """Where it can be used, and where it cannot, whose answer is an error."""
    raw = resolve(None, {"data": str(toy)}, ["min-partition-size=2"])
    own = [{"partition-id": 0, "modalities": "audio", "name": "edge-1"},
           {"partition-id": 1, "modalities": "touch", "name": "edge-2"}]  # fmt: skip
    grid = LocalGrid(client_app, own, raw)
    registry = NodeRegistry(("audio", "visual"), 0, 1, read_run_config(raw).sampling.wait_timeout)
    registry.sample(grid, 1, 1.0, 1, "train")
    (info,) = registry.known.values()
    assert called(1001, info.name) == "node 'edge-1'"
    (unusable,) = registry.unusable.values()
    assert "edge-2: " in unusable.reason
