"""A received task and a user's model.

The arrays are loaded, and the model gets the face that methods know.
"""

import zlib
from dataclasses import replace
from typing import Any

from flwr.app import Context
from torch import nn

from fedcmi_flwr.client.adapted import AdaptedModel, adapted_spec
from fedcmi_flwr.client.wrapped import WrappedModel
from fedcmi_flwr.methods import Method
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import SHARED
from fedcmi_flwr.wire import Task, WireError


def load(model: nn.Module, task: Task) -> None:
    """Load the arrays that a node was sent into a model, in place.

    Parameters
    ----------
    model
        Has every name that was sent; what was not sent keeps its value.
    task
        What the server sent.

    Raises
    ------
    WireError
        A tensor that the model lacks, or has in another shape.
    """
    own, sent = model.state_dict(), task.state_dict
    for name, tensor in sent.items():
        if name not in own or own[name].shape != tensor.shape:
            found = f"of shape {list(own[name].shape)}" if name in own else "missing"
            raise WireError(
                f"tensor {name!r}: the server sent shape {list(tensor.shape)}, in the node's "
                f"{type(model).__name__} it is {found}. Build the same model on the server and on "
                "every node."
            )

    model.load_state_dict(sent, strict=False)


def declared(task: Task, context: Context | None) -> Task:
    """Return the part of a task for the modalities that the node's node-config declares.

    Parameters
    ----------
    task
        What the server sent: everything, to a node that has no query handler.
    context
        Flower's, of the node; its node-config may have ``modalities``, "image+text".

    Returns
    -------
    The task with the groups of these modalities; the reply shows the server what the node owns.

    Raises
    ------
    WireError
        Modalities that were not sent.
    """
    text = None if context is None else context.node_config.get("modalities")
    if text is None:
        return task

    names = str(text).split("+")
    unknown = [name for name in names if name not in task.groups or name == SHARED]
    if unknown:
        raise WireError(
            f"node-config modalities = {text!r}: {unknown[0]!r} was not sent to this node, which "
            f"got {[name for name in task.groups if name != SHARED]}; join names by '+'."
        )

    groups = {group: members for group, members in task.groups.items() if group in (*names, SHARED)}
    arrays = {name: task.arrays[name] for members in groups.values() for name in members}

    return replace(task, groups=groups, arrays=arrays)


def as_methods_see_it(model: nn.Module, task: Task, method: Method) -> MultimodalModel:
    """Return the model behind the interface that methods expect; a wrapped one has it already."""
    if isinstance(model, WrappedModel):
        model.use(tuple(task.groups))
        return model

    if isinstance(model, MultimodalModel):
        return model

    num_classes = _num_classes(task.config)
    spec = adapted_spec(model, task.modalities, num_classes, method.structure)

    return AdaptedModel(model, task.groups, spec)


def _num_classes(config: dict[str, Any]) -> int:
    if "num-classes" not in config:
        raise WireError(
            "config: key 'num-classes' is missing; was this message made by the FedCMI strategy?"
        )
    return int(config["num-classes"])


def partition_of(context: Context | None) -> int:
    """Return the node's number, by which its random numbers differ from other nodes'."""
    if context is None:
        return 0

    known = context.node_config.get("partition-id")
    return int(known) if isinstance(known, int) else zlib.crc32(str(context.node_id).encode())
