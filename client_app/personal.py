"""Heads of a node's own.

What the received model could do here if its last layers were trained on this node alone.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from client_app.node import Node
from client_app.train import new_optimizer
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec, read_recipes
from fedcmi_flwr.methods import Method
from fedcmi_flwr.methods.base import present_rows
from fedcmi_flwr.methods.losses import cross_entropy
from fedcmi_flwr.models.file import MODEL_FILE, save_model
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.run_config import portable_settings
from fedcmi_flwr.seeding import torch_generator
from fedcmi_flwr.wire.tensors import to_arrays


def personal_name(prediction: str) -> str:
    """Return the name of a prediction by personalised heads."""
    return f"personal {prediction}"


def personalise(
    model: MultimodalModel,
    samples: Samples,
    settings: TrainingConfig,
    epochs: int,
    server_round: int,
    partition_id: int,
) -> MultimodalModel:
    """Return a copy of the received model with heads trained on CE(F) + sum_m CE(H_m(u_m)).

    It must not leave the node.

    Encoders and projectors are frozen, and all layers in eval mode, so that no running
    statistics move and nothing is dropped. Samples are seen in their evaluation views.

    Parameters
    ----------
    model
        The received global model, with the branches that the node owns; it stays as it is.
    samples
        The node's training samples.
    settings
        Learning rate (without its decay, in whose last rounds nothing would change), momentum,
        weight decay, batch size and seed.
    epochs
        Passes over the samples, 1 or more.
    server_round
        Counted from 1.
    partition_id
        The node's number.

    Returns
    -------
    The copy, in eval mode.
    """
    model = copy.deepcopy(model)
    model.eval().requires_grad_(False)
    for head in _heads(model):
        head.requires_grad_(True)

    device = next(model.parameters()).device
    optimizer = new_optimizer(model, settings, settings.lr)
    generator = torch_generator(settings.seed, "personal", server_round, partition_id)

    for _ in range(epochs):
        for batch in samples.training_batches(
            settings.batch_size, model.spec.modalities, generator, device
        ):
            output, rows = model(batch), present_rows(model, batch)
            loss = cross_entropy(output.fused_logits, batch.labels, batch.present.any(dim=1))
            for name, logits in output.self_logits.items():
                loss = loss + cross_entropy(logits, batch.labels, rows[name])

            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    return model


def keep(
    model: MultimodalModel,
    node: Node,
    inputs: Sequence[ModalitySpec],
    method: Method,
    server_round: int,
) -> None:
    """Write the node's own model where the node keeps it.

    A reader finds the old file or the new one, whole.

    Parameters
    ----------
    model
        From :func:`personalise`.
    node
        Says where.
    inputs
        Kind, shape and normalisation of each modality that the node owns, as the federation has
        them.
    method
        Its votes are how the model predicts.
    server_round
        Of the received model.

    Raises
    ------
    ConfigError
        A device that was not told where.
    """
    directory = node.personal_directory
    directory.mkdir(parents=True, exist_ok=True)

    settings = portable_settings(node.run.raw)
    votes = {
        "self-head-votes": method.votes.self_heads,
        "infiltration-votes": method.votes.infiltration_heads,
    }
    recipes = {
        name: recipe for name, recipe in read_recipes(node.directory).items() if name in model.owned
    }
    notes = {"round": server_round, "run-config": settings, **votes, "recipes": recipes}
    arrays = to_arrays(model.state_dict())
    save_model(directory / MODEL_FILE, arrays, model.spec, inputs, node.stored.classes, notes)


def _heads(model: MultimodalModel) -> list[nn.Module]:
    """Return the classifiers H_m and the fusion head F, as far as the model has them."""
    owners: list[nn.Module] = [model, *map(model.branch, model.owned)]
    return [
        getattr(owner, name)
        for owner in owners
        for name in ("fusion", "classifier")
        if hasattr(owner, name)
    ]
