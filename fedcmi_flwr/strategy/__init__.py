"""A round on the server."""

from fedcmi_flwr.strategy.modality_strategy import ModalityStrategy

FedCMI = ModalityStrategy
"""The name by which apps import the strategy; any method runs through it."""

__all__ = ["FedCMI", "ModalityStrategy"]
