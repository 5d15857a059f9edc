"""FedCMI: balanced multi-modal federated learning via cross-modal infiltration (arXiv 2401.00894)
on Flower.

``from fedcmi_flwr import FedCMI`` gives the strategy; it works with any torch model whose
parameter names tell which modality they belong to. The parts load when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedcmi_flwr.machine.bundle import enter_bundle

if TYPE_CHECKING:
    from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
    from fedcmi_flwr.aggregation.privacy import Privacy
    from fedcmi_flwr.aggregation.robust import RobustAggregation
    from fedcmi_flwr.client import LocalObjective
    from fedcmi_flwr.inference import Predictor
    from fedcmi_flwr.methods import (
        METHODS,
        CrossModalInfiltration,
        FedCMIPlus,
        Kept,
        LocalRound,
        LocalSteps,
        Method,
    )
    from fedcmi_flwr.models.encoders import Encoder
    from fedcmi_flwr.strategy import FedCMI, ModalityStrategy
    from fedcmi_flwr.strategy.guards import Guards
    from fedcmi_flwr.strategy.sampling import Sampling
    from fedcmi_flwr.strategy.tolerance import Tolerance
    from fedcmi_flwr.types import ClassStats, LossTerms
    from fedcmi_flwr.wire import NodeInfo, query_reply, read_task, train_reply

__all__ = [
    "METHODS",
    "ClassStats",
    "CrossModalInfiltration",
    "Encoder",
    "FedCMI",
    "FedCMIPlus",
    "Guards",
    "Kept",
    "LocalObjective",
    "LocalRound",
    "LocalSteps",
    "LossTerms",
    "Method",
    "ModalityStrategy",
    "NodeInfo",
    "Predictor",
    "Privacy",
    "RobustAggregation",
    "Sampling",
    "ServerOptimizer",
    "Tolerance",
    "query_reply",
    "read_task",
    "train_reply",
]

_HOMES = {
    "ClassStats": "types",
    "CrossModalInfiltration": "methods",
    "Encoder": "models.encoders",
    "FedCMI": "strategy",
    "FedCMIPlus": "methods",
    "Guards": "strategy.guards",
    "Kept": "methods",
    "LocalObjective": "client",
    "LocalRound": "methods",
    "LocalSteps": "methods",
    "LossTerms": "types",
    "METHODS": "methods",
    "Method": "methods",
    "ModalityStrategy": "strategy",
    "NodeInfo": "wire",
    "Predictor": "inference",
    "Privacy": "aggregation.privacy",
    "RobustAggregation": "aggregation.robust",
    "Sampling": "strategy.sampling",
    "ServerOptimizer": "aggregation.optimizers",
    "Tolerance": "strategy.tolerance",
    "query_reply": "wire",
    "read_task": "wire",
    "train_reply": "wire",
}

enter_bundle()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedcmi_flwr' has no attribute {name!r}")
    return getattr(import_module(f"fedcmi_flwr.{_HOMES[name]}"), name)
