"""Whole federations in this process that tests can look into.

Real nodes and strategy, nothing evaluated or written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from client_app.app import app as client_app
from fedcmi_flwr import wire
from fedcmi_flwr.client.memory import read_memory
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.groups import group_names
from fedcmi_flwr.wire.packing import pack, unpack
from fedcmi_flwr.wire.tensors import to_arrays
from server_app.launch import start as launch
from server_app.run.directory import RunDirectory
from server_app.run.federation import Federation

SMALL = {"local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "fraction-train": 1.0, "min-available-nodes": 1,
         "min-train-nodes": 1, "partition": "iid", "min-partition-size": 2, "device": "cpu"}  # fmt: skip
Tamper = Callable[[list[Message]], list[Message]]


@dataclass
class Federated:
    """A federation between rounds."""

    federation: Federation
    grid: LocalGrid
    arrays: dict[str, np.ndarray]
    """The global model."""
    replies: list[Message] = field(default_factory=list)
    """Of the last round, as the nodes sent them."""

    @property
    def strategy(self) -> Any:
        """The strategy."""
        return self.federation.strategy

    def round(self, server_round: int, change: Tamper = list) -> dict[str, np.ndarray]:
        """Run one round of training and return the new global model.

        ``change`` may tamper with the replies.
        """
        messages = self.messages(server_round, self.arrays)
        self.replies = change(list(self.grid.send_and_receive(messages)))
        self.strategy.aggregate_train(server_round, self.replies)
        self.arrays = dict(self.strategy.model_average.trained)
        return self.arrays

    def messages(self, server_round: int, arrays: Mapping[str, np.ndarray]) -> list[Message]:
        """Return what the server sends in a round with these weights."""
        config = ConfigRecord(self.federation.task_config())
        return list(self.strategy.configure_train(server_round, _record(arrays), config, self.grid))

    def evaluate(self, server_round: int) -> dict[str, Any]:
        """Return the accuracies of the global model on the test split."""
        return dict(
            self.federation.evaluate(
                server_round, _record(self.strategy.model_average.average or self.arrays)
            )
        )

    def update(self, reply: Message, partition: int) -> wire.NodeUpdate:
        """Return what a node of a method that measures nothing sent back."""
        _, groups = self.strategy.report.plan.sent[1001 + partition]
        names = group_names(tuple(self.arrays), self.strategy.groups)
        sent = {name: self.arrays[name] for group in groups for name in names[group]}
        return wire.read_train_reply(reply, sent, [], self.strategy.num_classes)

    def memory(self, partition: int) -> dict[str, np.ndarray]:
        """Return what the method keeps on a node."""
        return to_arrays(read_memory(self.grid.contexts[1001 + partition]))


def federate(
    directory: Path,
    data: Path,
    nodes: Sequence[str],
    arrays: Mapping[str, np.ndarray] | None = None,
    **changes: object,
) -> Federated:
    """Return a federation of one node per entry of ``nodes``, its modalities.

    ``changes`` are run-config keys.

    What a node of which nothing is said owns is dealt as the run-config says.
    """
    options: dict[str, Any] = {**SMALL, "data": str(data)}
    raw = launch.resolve(
        None, options | {key.replace("_", "-"): value for key, value in changes.items()}, []
    )
    federation = Federation(launch.read_run_config(raw), RunDirectory(directory))
    configs: list[dict[str, Any]] = [
        {"partition-id": i, "num-partitions": len(nodes)} for i in range(len(nodes))
    ]
    configs = [
        config | ({"modalities": text} if text else {})
        for config, text in zip(configs, nodes, strict=True)
    ]
    start = to_arrays(federation.model.trained_state()) if arrays is None else dict(arrays)
    return Federated(federation, LocalGrid(client_app, configs, raw), start)


def _record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def method_arrays(message: Message) -> dict[str, np.ndarray]:
    """Return what a node's part of the method sent to its part on the server."""
    arrays, _ = unpack(message.content["method-arrays"], message.content["method-layout"])
    return arrays


def sends(
    partition: int, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray] | None]
) -> Tamper:
    """Return a tamper that lets a node send other arrays for the method.

    ``change`` edits or replaces them.
    """

    def tamper(replies: list[Message]) -> list[Message]:
        content = replies[partition].content
        arrays = method_arrays(replies[partition]) if "method-arrays" in content else {}
        replaced = change(arrays)
        arrays = dict(arrays if replaced is None else replaced)
        for name in ("method-arrays", "method-layout"):
            content.pop(name, None)
        if arrays:
            content["method-arrays"], content["method-layout"] = pack(
                arrays, {"method": tuple(arrays)}
            )
        return replies

    return tamper
