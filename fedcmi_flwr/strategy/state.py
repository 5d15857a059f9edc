"""What the strategy carries from one round to the next besides the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.types import AnyArray


@dataclass(frozen=True)
class ServerState:
    """The state of a :class:`fedcmi_flwr.strategy.FedCMI` after a round.

    No generator is part of it: everything random is drawn from (seed, purpose, round,
    partition), ``seeding.py``.
    """

    dominance: Dominance = NOBODY
    """The decision that goes out with the next round's model."""
    method: Mapping[str, AnyArray] = field(default_factory=dict)
    """What the method keeps on the server."""
    optimizer: Mapping[str, AnyArray] = field(default_factory=dict)
    """What :meth:`ServerOptimizer.state` says; empty without one."""
    releases: Mapping[int, int] = field(default_factory=dict)
    """The privacy account, partition id -> releases; empty without :class:`Privacy`."""
