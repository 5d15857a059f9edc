"""Messages of a toy federation of two modalities.

What a node was sent, and what it may send back.
"""

import numpy as np
import torch
from flwr.app import Message

from fedcmi_flwr import wire
from fedcmi_flwr.methods import method_from
from fedcmi_flwr.methods.applied import terms_of
from fedcmi_flwr.methods.dominance import NOBODY, Dominance

MODALITIES = ("audio", "visual")
GROUPS = {"audio": ("ear.w", "ear.steps"), "shared": ("head",)}
SENT = {
    "ear.w": np.array([[1.0, 2.0]], np.float32),
    "ear.steps": np.array(3),
    "head": np.array([0.5], np.float32),
}
EXTRA = {**SENT, "eye": np.array([9.0], np.float32)}
"""All arrays of the server; the node can use those of GROUPS."""
TEMPERATURES = {"audio": torch.tensor([1.0, 0.25]), "visual": torch.tensor([0.5, 1.0])}


def asked(dominance: Dominance = NOBODY, message_type: str = "train", **config: object) -> Message:
    """Return what a node was sent in round 2; ``config`` are further keys."""
    settings = {"server-round": 2, "gamma": 2.0, "method": "fedcmi", **config}
    return wire.task_message(
        7, message_type, wire.pack(EXTRA, GROUPS), settings, MODALITIES, dominance
    )


def everything(message: Message) -> wire.Applied:
    """Return what a node says that did all it was asked for."""
    config = wire.read_task(message).config
    return wire.Applied(config["method"], terms_of(method_from(config)))
