"""The client's half of every method, for your own Flower app.

Three depths: :func:`wrap` and :func:`train_round` do a whole round; :class:`LocalObjective` is
the method inside your own loop; with the method "fedavg" the strategy takes any training and any
loss.
"""

from fedcmi_flwr.client.objective import LocalObjective, LocalResult, NotAppliedError
from fedcmi_flwr.client.outputs import MissingOutputError
from fedcmi_flwr.client.round import train_round
from fedcmi_flwr.client.samples import SamplesNeededError
from fedcmi_flwr.client.wrapped import WrappedModel, wrap

__all__ = [
    "LocalObjective",
    "LocalResult",
    "MissingOutputError",
    "NotAppliedError",
    "SamplesNeededError",
    "WrappedModel",
    "train_round",
    "wrap",
]
