"""The received model.

The federation's architecture, the arrays that the node was sent, and its own frozen trunks.
"""

import json
import logging
from collections.abc import Sequence

from client_app.node import Node
from fedcmi_flwr import wire
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.methods import Method, method_from
from fedcmi_flwr.models import pretrained
from fedcmi_flwr.models.building import model_spec
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.placement import choose_device, place
from fedcmi_flwr.models.published import locations_of
from fedcmi_flwr.wire.tensors import to_state_dict

logger = logging.getLogger("flwr.fedcmi")

_models: dict[str, MultimodalModel] = {}
"""The model of this process's last task, by its description: the nodes of a simulation's process
take turns with it."""


def method_of(task: wire.Task) -> Method:
    """Return the method that the server named, with the hyperparameters that it sent."""
    return method_from(task.config)


def receive(node: Node, task: wire.Task, method: Method) -> MultimodalModel:
    """Load the received arrays into a model with the branches that this node was sent.

    Parameters
    ----------
    node
        The node; its configuration says where the model computes.
    task
        What the node was sent.
    method
        The task's; it decides the model's structure.

    Returns
    -------
    The model, which the next task of this process changes.

    Raises
    ------
    DataError
        The node's classes are not the federation's.
    ConfigError
        A trunk is frozen, but nothing says where this node has its weights.
    PretrainedError
        The weights of a frozen trunk cannot be read, or are not the server's.
    """
    classes = list(node.stored.classes)
    if classes != task.config["classes"]:
        raise DataError(
            f"{node.directory}: classes {classes}, but the federation's are "
            f"{task.config['classes']}; prepare the node's data with the same classes in the same "
            "order."
        )

    options = {
        name: json.loads(task.config.get(f"options.{name}", "{}")) for name in task.modalities
    }
    spec = model_spec(node.run.model, method, task.modalities, len(classes), options)
    owned = [name for name in node.stored.modality_names if name in task.groups]
    # The federation's own
    inputs = [ModalitySpec.from_json(task.config[f"input.{name}"]) for name in owned]
    model = _model(spec, inputs)
    model.load_trained_state(to_state_dict(task.arrays))
    _load_frozen(model, node, task)

    device = choose_device(node.config.device or node.run.machine.device)
    place(model, device, node.run.machine.precision)
    logger.info(
        "round %d: partition %d holds %s (%d parameters to train) on %s",
        task.server_round,
        node.config.partition_id,
        ", ".join(task.groups),
        sum(parameter.numel() for parameter in model.trained_parameters().values()),
        device,
    )

    return model


def _model(spec: ModelSpec, inputs: Sequence[ModalitySpec]) -> MultimodalModel:
    """Return a model into which everything has yet to be loaded.

    To build one anew takes longer than that.
    """
    key = repr((spec, inputs))
    if key not in _models:
        _models.clear()
        _models[key] = MultimodalModel(spec, inputs)

    model = _models[key].train()
    model.zero_grad()
    for name in model.owned:
        # The last task's may have been given features
        model.branch(name).encoder.given_features = False

    return model


def _load_frozen(model: MultimodalModel, node: Node, task: wire.Task) -> None:
    """Load the frozen trunks from this node's own directories, and check that they are the
    server's.
    """
    frozen = [name for name in model.owned if name in model.spec.held]
    of_run = locations_of(node.run.model, model.spec.modalities)
    of_node = pretrained.read_locations(node.config.pretrained)
    locations = {**of_run, **of_node}

    pretrained.check_frozen(locations, frozen)
    checksums = pretrained.load_trunks(model, {name: locations[name] for name in frozen})
    for name, checksum in checksums.items():
        pretrained.check_same(name, (checksum, locations[name]), task.config[f"frozen.{name}"])
