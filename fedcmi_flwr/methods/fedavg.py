"""FedAvg (McMahan et al., AISTATS 2017) and FedProx (Li et al., MLSys 2020) on a fused model."""

from dataclasses import dataclass

from fedcmi_flwr.config.fields import number
from fedcmi_flwr.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class FedAvg(Method):
    """CE(F) on encoders and fusion head, missing modalities as zeros.

    FedProx is FedAvg with ``mu`` above 0.
    """


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg whose own weight is ``mu``."""

    mu: float = number(0, default=1.0)

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("mu", (0.01, 0.1, 1.0))


METHODS = {"fedavg": FedAvg(), "fedprox": FedProx()}
