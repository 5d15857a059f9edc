"""How many nodes take part in a round."""

from dataclasses import dataclass

from fedcmi_flwr.config.fields import Settings, number


@dataclass(frozen=True)
class Sampling(Settings):
    """Who takes part in a round, and how long the server waits for nodes."""

    fraction_train: float = number(0, 1, above=True, default=1.0)
    """Share of the available nodes that train in a round."""
    min_train_nodes: int = number(1, default=2)
    """Fewest nodes that train in a round, where there are that many."""
    fraction_evaluate: float = number(0, 1, default=0.0)
    """Share of the available nodes that evaluate on their own test samples; 0: none."""
    evaluate_from: int = number(1, default=1)
    """First round after which nodes evaluate."""
    min_available_nodes: int = number(1, default=2)
    """Nodes to wait for before a round starts."""
    wait_timeout: float = number(0, above=True, default=120.0)
    """Seconds to wait for these nodes, and for the answers to queries, before the round fails."""
