"""A toy federation of honest and hostile nodes.

The strategy's messages to them, and what it logs of their replies.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, settings

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy import FedCMI
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.sampling import Sampling

GROUPS = {"audio": ["ear."], "visual": ["eye."]}
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "ear.steps": np.array(5),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([[4.0, -1.0]], np.float32),
}
BOTH = ("audio", "visual")
HONEST = {1001: wire.NodeInfo(BOTH, 0), 1002: wire.NodeInfo(("audio",), 1)}
HOSTILE = {
    1003: wire.NodeInfo(BOTH, 2),
    1004: wire.NodeInfo(("visual",), 3),
    1005: wire.NodeInfo(BOTH, 4),
}
NODES = HONEST | HOSTILE


def fuzzed(examples: int) -> Callable[..., Any]:
    """Return settings for so many examples, the same ones on every machine.

    Each holds a reply per hostile node.
    """
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


@dataclass
class Lines(logging.Handler):
    """What "flwr.fedcmi" logs as warnings."""

    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the handler."""
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        """Return what logging keeps handlers by."""
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.found.append(record.getMessage())


LINES = Lines()


def strategy_of(method: str, defended: bool = False) -> FedCMI:
    """Return a strategy that knows the nodes.

    ``defended``: with every bound and a server optimiser.
    """
    sampling = Sampling(min_available_nodes=1, min_train_nodes=1, fraction_evaluate=1.0)
    options: dict[str, Any] = {"sampling": sampling}
    if defended:
        options["guards"] = Guards(max_update_norm=1.0, max_example_ratio=2.0)
        options["server_optimizer"] = ServerOptimizer("fedadam", 0.01, 0.9)
    strategy = FedCMI(GROUPS, 2, METHODS[method], **options)
    strategy.nodes.known = dict(NODES)
    return strategy


class Connected(LocalGrid):
    """The nodes; they answer queries with what they are given."""

    answers: list[Message]

    def __init__(self) -> None:
        super().__init__(ClientApp(), [{} for _ in NODES], {})

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        """Return the answers."""
        return self.answers
