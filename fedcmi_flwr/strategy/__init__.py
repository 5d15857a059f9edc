"""A round on the server."""

from fedcmi_flwr.strategy.fedcmi import FedCMI

__all__ = ["FedCMI"]
