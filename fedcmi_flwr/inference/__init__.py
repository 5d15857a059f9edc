"""A trained model in use: predictor, predictions, export."""

from fedcmi_flwr.inference.predictor import Predictor

__all__ = ["Predictor"]
