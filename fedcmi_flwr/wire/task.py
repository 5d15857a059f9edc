"""The task: what the server sends a node to train or to evaluate, and how the node reads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.types import AnyArray, Modality
from fedcmi_flwr.wire.packing import WireError, unpack, unpack_plain
from fedcmi_flwr.wire.records import (
    PLAIN_LAYOUT,
    method_arrays,
    method_records,
    plain_groups,
    record,
)
from fedcmi_flwr.wire.tensors import to_state_dict

TEMPERATURE = "temperature."
"""Start of the keys of a weak modality's class temperatures."""


@dataclass(frozen=True)
class Task:
    """What a train or evaluate message asks of a node."""

    arrays: dict[str, AnyArray]
    """Name -> array of the groups that this node can use."""
    groups: dict[str, tuple[str, ...]]
    """Group -> names."""
    config: dict[str, Any]
    """Hyperparameters by configuration key, and all that the user put into Flower's
    train_config."""
    server_round: int
    """From 1."""
    modalities: tuple[Modality, ...]
    """All modalities of the federation, in the order of the fusion slots."""
    dominance: Dominance
    """The server's decision; its dominant modality is None while nobody teaches."""
    from_method: dict[str, AnyArray] = field(default_factory=dict)
    """What the method's state on the server has for this node."""

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The arrays as tensors, for ``model.load_state_dict``."""
        return to_state_dict(self.arrays)


def task_message(
    node_id: int,
    message_type: str,
    packed: tuple[ArrayRecord, ConfigRecord | Mapping[str, Sequence[str]]],
    config: Mapping[str, Any],
    modalities: Sequence[Modality],
    dominance: Dominance,
    from_method: Mapping[str, AnyArray] | None = None,
    wire_dtype: str = "float32",
) -> Message:
    """Build a train or evaluate message (on the server).

    Parameters
    ----------
    node_id
        Receiver.
    message_type
        Flower's "train" or "evaluate".
    packed
        The ``arrays`` and ``layout`` records of the groups that the node can use, from
        :func:`packing.pack`; nodes that own the same share them. For a node that speaks "plain":
        what :func:`packing.pack_plain` gave, and group -> names.
    config
        Hyperparameters and ``server-round``.
    modalities
        All modalities of the federation.
    dominance
        The server's decision; the temperatures of groups that the node can use go along.
    from_method
        What the method's state on the server has for this node.
    wire_dtype
        What the node's float32 arrays are to travel in.

    Returns
    -------
    The message.
    """
    arrays, layout = packed
    values: dict[str, Any] = {
        **config,
        "modalities": list(modalities),
        "dominant": dominance.dominant or "",
        "wire-dtype": wire_dtype,
    }
    for name, temperature in dominance.temperature.items():
        if name in layout:
            values[f"{TEMPERATURE}{name}"] = temperature.tolist()

    content = RecordDict({"arrays": arrays})
    if isinstance(layout, ConfigRecord):
        content["layout"] = layout
    else:  # Flower's mods want a single ConfigRecord
        values[PLAIN_LAYOUT] = json.dumps({group: list(names) for group, names in layout.items()})

    content["config"] = ConfigRecord(values)
    content.update(method_records(from_method or {}))

    return Message(content, dst_node_id=node_id, message_type=message_type)


def read_task(message: Message) -> Task:
    """Decode a train or evaluate message (on the node).

    Parameters
    ----------
    message
        What the node received.

    Returns
    -------
    The task.

    Raises
    ------
    WireError
        The message was not made by :func:`task_message`.
    """
    packed = record(message, "arrays", ArrayRecord)
    config: dict[str, Any] = dict(record(message, "config", ConfigRecord))
    from_method = method_arrays(message)
    groups = plain_groups(config)
    if groups is None:
        arrays, groups = unpack(packed, record(message, "layout", ConfigRecord))
    else:
        arrays = unpack_plain(packed)
        config.pop("update-compression", None)  # plain arrays travel whole

    config.pop(PLAIN_LAYOUT, None)
    config.pop("wire-dtype", None)  # read again where the reply is packed
    try:
        modalities, server_round = config.pop("modalities"), config.pop("server-round")
        dominant = config.pop("dominant") or None
    except KeyError as error:
        raise WireError(
            f"config: key {error} is missing; was this message made by the FedCMI strategy?"
        ) from error

    keys = [key for key in config if key.startswith(TEMPERATURE)]
    temperature = {key.removeprefix(TEMPERATURE): torch.tensor(config.pop(key)) for key in keys}
    dominance = Dominance(dominant, {}, temperature)

    return Task(arrays, groups, config, server_round, tuple(modalities), dominance, from_method)
