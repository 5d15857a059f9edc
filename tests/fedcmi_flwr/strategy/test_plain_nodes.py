"""Nodes that speak Flower's own way: no query handler, one array a tensor, numbers of their own."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.guards import Guards

Maker = Callable[..., Any]
NOTHING: Mapping[int, float] = {}


def plain_grid(
    *left_out: str, nodes: int = 2, damage: Mapping[int, float] = NOTHING, **metrics: float
) -> LocalGrid:
    """Return nodes that add their number + 1.

    The last one does not send what starts with ``left_out``.

    ``damage`` is added to the ear of some.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        part = int(context.node_config["partition-id"])
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        if part == nodes - 1:
            arrays = {
                name: value
                for name, value in arrays.items()
                if not name.startswith(left_out or ("-",))
            }
        added = ArrayRecord(
            {
                n: Array(np.asarray(value + np.asarray(part + 1, value.dtype)))
                for n, value in arrays.items()
            }
        )
        if part in damage:
            added["ear.w"] = Array(added["ear.w"].numpy() + np.float32(damage[part]))
        numbers = MetricRecord(
            {"num-examples": part + 1, **{key: value * part for key, value in metrics.items()}}
        )
        return Message(RecordDict({"arrays": added, "metrics": numbers}), reply_to=message)

    return LocalGrid(app, [{"partition-id": part} for part in range(nodes)], {})


def test_a_plain_reply_counts_and_its_numbers_are_averaged_by_samples(
    make_strategy: Maker, train_round: Maker
) -> None:
    """Nodes of 1 and 2 samples add 1 and 2: 5/3. Their numbers are 0 and 6: 4."""
    strategy = make_strategy(method="fedavg")
    found, metrics = train_round(strategy, plain_grid(score=6.0))
    assert strategy.report.refused == []
    assert found["head.w"].tolist() == pytest.approx([4 + 5 / 3])
    assert metrics["score"] == pytest.approx(4.0)


def test_a_first_reply_shows_what_a_node_owns(make_strategy: Maker, train_round: Maker) -> None:
    """The second node leaves the eye out.

    Only the first one's eye counts, and the next task has no eye for it.
    """
    strategy = make_strategy(method="fedavg")
    grid = plain_grid("eye.")
    found, _ = train_round(strategy, grid)
    assert strategy.report.owners["visual"] == [0]
    assert strategy.report.owners["audio"] == [0, 1]
    assert found["eye.w"].tolist() == pytest.approx([4.0])
    train_round(strategy, grid, 2)
    assert [info.modalities for info, _ in strategy.report.plan.sent.values()] == [
        ("audio", "visual"),
        ("audio",),
    ]


def test_a_reply_without_a_whole_modality_is_refused_with_what_to_do(
    make_strategy: Maker, train_round: Maker
) -> None:
    strategy = make_strategy(method="fedavg")
    train_round(strategy, plain_grid("e"))
    (line,) = strategy.report.refused
    assert "no query handler" in line and "ArrayRecord(model.state_dict())" in line


def test_a_damaged_plain_reply_is_refused_by_default(
    make_strategy: Maker, train_round: Maker
) -> None:
    """The last of four nodes sends one number of 1e30 and no eye.

    Its ear is a hundred times too far.
    """
    strategy = make_strategy(method="fedavg")
    grid = plain_grid("eye.", nodes=4, damage={3: 1e30})
    found, _ = train_round(strategy, grid)
    (line,) = strategy.report.refused
    assert "max-norm-ratio" in line and "'audio'" in line
    assert strategy.report.owners == {"audio": [0, 1, 2], "visual": [0, 1, 2], "shared": [0, 1, 2]}
    assert found["head.w"].tolist() == pytest.approx([4 + (1 + 4 + 9) / 6])


def test_a_plain_node_with_one_modality_is_bounded_like_any_other(
    make_strategy: Maker, train_round: Maker
) -> None:
    """Node 0's ear goes sqrt(2) far, node 1's ear and head more.

    Node 1's two samples count as one.
    """
    strategy = make_strategy(
        method="fedavg", guards=Guards(max_update_norm=1.0, max_example_ratio=1.0)
    )
    train_round(strategy, plain_grid("eye."))
    assert strategy.report.refused == []
    assert sum("max-update-norm" in line for line in strategy.report.bounded) == 3
    assert sum("count as 1 " in line for line in strategy.report.bounded) == 1
