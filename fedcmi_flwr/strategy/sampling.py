"""How many nodes take part in a round."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fedcmi_flwr.config.fields import Settings, number
from fedcmi_flwr.suggestions import did_you_mean


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

    def changed(self, options: Mapping[str, Any]) -> "Sampling":
        """Return the settings with some of them given by name.

        TypeError says of another name what there is.
        """
        known = [item.name for item in fields(self)]
        for name in options:
            if name not in known:
                raise TypeError(
                    f"FedCMI has no argument {name!r}; of Flower's FedAvg it takes "
                    "weighted_by_key, train_metrics_aggr_fn, evaluate_metrics_aggr_fn, "
                    f"{', '.join(known)}.{did_you_mean(name, known)}"
                )

        return replace(self, **options)
