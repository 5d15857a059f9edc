"""Local training: one visible loop for every method."""

import numpy as np
import torch
from numpy.typing import NDArray

from client_app.accumulation import accumulated_step, grouped
from client_app.budget import Budget
from fedcmi_flwr.client import LocalObjective, LocalResult, begin
from fedcmi_flwr.client.adamw import AdamW
from fedcmi_flwr.client.begin import Received
from fedcmi_flwr.client.samples import NodeSamples, Tally
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.finite import check_finite
from fedcmi_flwr.data.samples import Samples, room_on
from fedcmi_flwr.methods import LocalRound, Method
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.seeding import torch_generator, torch_global_seed
from fedcmi_flwr.types import Batch


def train(
    model: MultimodalModel,
    samples: Samples,
    method: Method,
    settings: TrainingConfig,
    server_round: int,
    partition_id: int,
    received: Received,
    method_name: str = "",
    time_budget: float = 0.0,
) -> LocalResult:
    """Train the received model in place for one round.

    Parameters
    ----------
    model
        The received global model, with the branches that the node owns.
    samples
        The node's training samples.
    method
        What is added to the loss and to the gradients.
    settings
        Epochs, batch size, optimiser.
    server_round
        Counted from 1.
    partition_id
        The node's number; with seed and round it decides everything random.
    received
        What came with the model, and what the node kept.
    method_name
        As the task has it; goes into the reply.
    time_budget
        Seconds, after which no further batch is begun; 0: as long as it takes.

    Returns
    -------
    Statistics, losses and what the method keeps.

    Raises
    ------
    FloatingPointError
        A loss became NaN or Inf.
    DataError
        The loss did because a sample holds NaN or Inf.
    """
    device = next(model.parameters()).device
    stored, samples = samples, samples.resident(device, room_on(device))
    local = begin_round(model, samples, method, settings, server_round, partition_id, received)
    objective = LocalObjective(model, method, local, method_name)

    optimizer = new_optimizer(model, settings, settings.learning_rate(server_round))
    generator = torch_generator(settings.seed, "batches", server_round, partition_id)
    budget = Budget(time_budget)

    model.train()
    with torch_global_seed(settings.seed, "dropout", server_round, partition_id):
        for epoch in range(settings.local_epochs):
            if budget.spent:
                break

            views = torch_generator(
                settings.seed, f"views, epoch {epoch}", server_round, partition_id
            )
            batches = samples.training_batches(
                settings.batch_size, model.spec.modalities, generator, device, views
            )
            batches = budget.within(batches)
            if settings.accumulate_batches == 1:
                for batch in batches:
                    step(model, batch, objective, optimizer)
            else:
                for together in grouped(batches, settings.accumulate_batches):
                    accumulated_step(model, together, objective, optimizer)

            try:
                objective.losses.check(epoch, settings.lr)
            except FloatingPointError:
                check_finite(stored, "train")  # names the bad sample if there is one
                raise

    return objective.finish()


def new_optimizer(model: MultimodalModel, settings: TrainingConfig, lr: float) -> SGD | AdamW:
    """Return the run's optimiser over the trained parameters; it remembers no earlier round."""
    trained = model.trained_parameters().values()
    if settings.optimizer == "adamw":
        return AdamW(trained, lr, settings.weight_decay)

    return SGD(trained, lr, settings.momentum, settings.weight_decay)


def step(
    model: MultimodalModel, batch: Batch, objective: LocalObjective, optimizer: SGD | AdamW
) -> torch.Tensor:
    """Take one optimiser step.

    On a GPU nothing in it waits for the device, unless the method asks for a number.

    Parameters
    ----------
    model
        In training mode; changed in place.
    batch
        On the model's device.
    objective
        The method's, of this round.
    optimizer
        From :func:`new_optimizer`.

    Returns
    -------
    The batch's loss, on the device.
    """
    # The objective has recorded the batch from the model's call
    loss = objective(model(batch), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    objective.step(optimizer)

    return loss.detach()


def begin_round(
    model: MultimodalModel,
    samples: Samples,
    method: Method,
    settings: TrainingConfig,
    server_round: int,
    partition_id: int,
    received: Received,
) -> LocalRound:
    """Measure the received model and keep what the method needs of it.

    The parameters are those of :func:`train`.
    """
    device, num_classes = next(model.parameters()).device, model.spec.num_classes
    node_samples = NodeSamples(
        batches=lambda: samples.evaluation_batches(model.spec.modalities, device),
        tally=lambda: tally(samples, num_classes),
        same=frozenset(each.name for each in samples.modalities if samples.views.repeat(each)),
    )
    generator = torch_generator(settings.seed, "method", server_round, partition_id)

    return begin.begin_round(model, node_samples, method, server_round, received, generator)


def tally(samples: Samples, num_classes: int) -> Tally:
    """Return the samples of each class, in total and with each modality that some samples lack."""

    def counted(rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.bincount(torch.from_numpy(samples.labels[rows]), minlength=num_classes)

    has, names = samples.has[samples.rows], (modality.name for modality in samples.modalities)
    lacking = {name: column for name, column in zip(names, has.T, strict=True) if not column.all()}

    return Tally(
        counted(samples.rows),
        {name: counted(samples.rows[column]) for name, column in lacking.items()},
    )
