"""A toy federation: a real strategy, an in-process grid, and clients that are a few lines each."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import ModalityStrategy
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.strategy.tolerance import Tolerance
from fedcmi_flwr.types import ClassStats

GROUPS = {"audio": ["ear."], "visual": ["eye."]}
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "ear.steps": np.array(5),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([4.0], np.float32),
}
TrainReply = Callable[[Message, int], Message]


@dataclass
class ToyFederation:
    """Nodes by partition id, and what they were asked."""

    owned: list[Sequence[str]]
    """Modalities of each partition."""
    examples: list[int]
    """Training samples of each partition."""
    stats: Mapping[int, ClassStats] = field(default_factory=dict)
    """What each partition measures; without an entry: one sample, of class 0, p = 1/2."""
    values: Mapping[int, float] = field(default_factory=dict)
    """What each partition adds to every floating-point array; without an entry: its partition id
    + 1."""
    replies: Mapping[int, TrainReply] = field(default_factory=dict)
    """Partitions that answer a train message in their own way."""
    partition_ids: Sequence[int] = ()
    """What the nodes say that their partition ids are; empty: 0, 1, 2, ..."""
    queries: list[int] = field(default_factory=list)
    tasks: list[tuple[int, wire.Task]] = field(default_factory=list)
    counts: Mapping[int, Mapping[str, Counts]] = field(default_factory=dict)
    """What each partition counts in an evaluation."""

    def grid(self) -> LocalGrid:
        """Return an in-process grid of these nodes."""
        return LocalGrid(
            self._app(), [{"partition-id": part} for part in range(len(self.owned))], {}
        )

    def _app(self) -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            part = int(context.node_config["partition-id"])
            self.queries.append(part)
            claimed = self.partition_ids[part] if self.partition_ids else part
            return wire.query_reply(message, wire.NodeInfo(tuple(self.owned[part]), claimed))

        @app.train()
        def train(message: Message, context: Context) -> Message:
            part = int(context.node_config["partition-id"])
            self.tasks.append((part, wire.read_task(message)))
            return self.replies.get(part, self.reply)(message, part)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            counts = self.counts[int(context.node_config["partition-id"])]
            return wire.evaluate_reply(
                message, counts, max(int(found.count.sum()) for found in counts.values())
            )

        return app

    def reply(self, message: Message, part: int) -> Message:
        """Answer a train message well."""
        arrays = {
            name: value + np.asarray(self.values.get(part, part + 1)).astype(value.dtype)
            for name, value in wire.read_task(message).arrays.items()
        }
        stats = self.stats.get(part)
        if stats is None:
            names = self.owned[part]
            stats = ClassStats(
                dict.fromkeys(names, np.array([0.5, 0.0])), dict.fromkeys(names, np.array([1, 0]))
            )
        loss = {
            "loss_sum": {"fused": float(10 * (part + 1))},
            "loss_count": {"fused": self.examples[part]},
        }
        said = {"seconds": part + 0.5, "applied": everything(message)}
        return wire.train_reply(message, arrays, self.examples[part], stats, **loss, **said)


def run_round(
    strategy: ModalityStrategy,
    grid: LocalGrid,
    server_round: int = 1,
    arrays: Mapping[str, np.ndarray] = ARRAYS,
    order: Callable[[list[Message]], list[Message]] = list,
) -> tuple[dict[str, np.ndarray], MetricRecord]:
    """Run one round of training; ``order`` rearranges the replies."""
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    messages = strategy.configure_train(server_round, record, ConfigRecord({"epochs": 2}), grid)
    aggregated, metrics = strategy.aggregate_train(
        server_round, order(list(grid.send_and_receive(messages)))
    )
    assert aggregated is not None
    assert metrics is not None
    return {name: array.numpy() for name, array in aggregated.items()}, metrics


@pytest.fixture
def federation() -> type[ToyFederation]:
    """Return the maker of toy federations."""
    return ToyFederation


@pytest.fixture
def train_round() -> Callable[..., Any]:
    """Return the runner of one round of training."""
    return run_round


@pytest.fixture
def make_strategy() -> Callable[..., ModalityStrategy]:
    """Return a maker of strategies that wait for nobody.

    It takes fields of Sampling and Tolerance singly.
    """

    def make(**changes: Any) -> ModalityStrategy:
        sampling = {"min_available_nodes": 1, "min_train_nodes": 1, "wait_timeout": 0.01} | _taken(
            changes, Sampling
        )
        tolerance = Tolerance(**_taken(changes, Tolerance))
        return ModalityStrategy(
            GROUPS, 2, sampling=Sampling(**sampling), tolerance=tolerance, **changes
        )

    return make


def _taken(changes: dict[str, Any], kind: type) -> dict[str, Any]:
    """Take those of the changes that are fields of ``kind``."""
    return {item.name: changes.pop(item.name) for item in fields(kind) if item.name in changes}


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """Collect what "flwr.fedcmi" logs as warnings.

    Flower's logger does not pass it on to pytest's.
    """
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("flwr.fedcmi")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
