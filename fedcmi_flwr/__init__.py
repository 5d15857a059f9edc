"""FedCMI: balanced multi-modal federated learning via cross-modal infiltration (arXiv 2401.00894) on Flower.

``from fedcmi_flwr import FedCMI`` gives the strategy; it works with any torch model whose parameter names tell which
modality they belong to. The parts load when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedcmi_flwr.guards import Guards
    from fedcmi_flwr.methods import METHODS, CrossModalInfiltration
    from fedcmi_flwr.robust import RobustAggregation
    from fedcmi_flwr.strategy import FedCMI
    from fedcmi_flwr.types import ClassStats

__all__ = ["METHODS", "ClassStats", "CrossModalInfiltration", "FedCMI", "Guards", "RobustAggregation"]

_HOMES = {
    "ClassStats": "fedcmi_flwr.types",
    "CrossModalInfiltration": "fedcmi_flwr.methods",
    "FedCMI": "fedcmi_flwr.strategy",
    "Guards": "fedcmi_flwr.guards",
    "METHODS": "fedcmi_flwr.methods",
    "RobustAggregation": "fedcmi_flwr.robust",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedcmi_flwr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
