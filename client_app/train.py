"""Local training: one visible loop for every method."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from client_app.sgd import SGD
from client_app.work import Budget
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.samples import Samples, room_on
from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import Kept, LocalRound, LocalSteps, Method
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.models.multimodal import Branch, MultimodalModel
from fedcmi_flwr.seeding import torch_generator, torch_global_seed
from fedcmi_flwr.types import Batch, ClassStats, LossTerms, Modality


@dataclass(frozen=True)
class Received:
    """What a node has before it trains, besides the global model and its samples."""

    dominance: Dominance = NOBODY
    """The server's decision."""
    from_server: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What the method's state on the server has for this node."""
    memory: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What the method kept on this node from its last turn."""


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training gives besides the trained model."""

    stats: ClassStats | None
    """Class statistics on the received model."""
    loss_sum: dict[str, float]
    """Loss term -> sum over samples and epochs, in nats."""
    loss_count: dict[str, int]
    """Loss term -> samples in the sum."""
    kept: Kept
    """What the method keeps, for the server and for the node's next turn."""


def train(
    model: MultimodalModel,
    samples: Samples,
    method: Method,
    settings: TrainingConfig,
    server_round: int,
    partition_id: int,
    received: Received,
    budget: Budget | None = None,
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
    budget
        The node's time; None: as long as it takes.

    Returns
    -------
    Statistics, losses and what the method keeps.

    Raises
    ------
    FloatingPointError
        A loss became NaN or Inf.
    """
    device = next(model.parameters()).device
    samples = samples.resident(device, room_on(device))
    local = begin_round(model, samples, method, settings, server_round, partition_id, received)

    lr, steps = settings.learning_rate(server_round), 0
    optimizer = new_optimizer(model, settings, lr)
    generator = torch_generator(settings.seed, "batches", server_round, partition_id)
    losses, budget = RunningLosses(), budget or Budget()

    model.train()
    with torch_global_seed(settings.seed, "dropout", server_round, partition_id):
        for epoch in range(settings.local_epochs):
            if budget.spent:
                break
            views = torch_generator(settings.seed, f"views, epoch {epoch}", server_round, partition_id)
            batches = samples.training_batches(settings.batch_size, model.spec.modalities, generator, device, views)
            for batch in budget.within(batches):
                losses.add(step(model, batch, method, optimizer, local), len(batch.labels))
                steps += 1
            losses.check(epoch, settings)

    check_weights(model, settings)
    kept = method.finish(model, local, LocalSteps(steps, lr, settings.momentum))
    return LocalResult(local.stats, losses.sums(), losses.counts, kept)


def new_optimizer(model: MultimodalModel, settings: TrainingConfig, lr: float) -> SGD:
    """Return SGD over the trained parameters."""
    return SGD(model.trained_parameters().values(), lr, settings.momentum, settings.weight_decay)


def step(model: MultimodalModel, batch: Batch, method: Method, optimizer: SGD, local: LocalRound) -> LossTerms:
    """Take one optimiser step; on a GPU nothing in it waits for the device, unless the method asks for a number.

    Parameters
    ----------
    model
        In training mode; changed in place.
    batch
        On the model's device.
    method
        What is added to the loss and to the gradients.
    optimizer
        From :func:`new_optimizer`.
    local
        From :func:`begin_round`.

    Returns
    -------
    The batch's loss terms, on the device.
    """
    terms = method.loss_terms(model, batch, model(batch), local)
    optimizer.zero_grad()
    terms.total().backward()
    method.clip_gradients(model)
    method.adjust_gradients(model, local)
    optimizer.step()
    return terms


def check_weights(model: MultimodalModel, settings: TrainingConfig) -> None:
    """Raise FloatingPointError when a weight or running statistic is no longer finite, though the last loss was."""
    state = model.trained_state()
    finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
    broken = [name for name, fine in zip(state, finite, strict=True) if not fine]
    if broken:
        raise FloatingPointError(f"training diverged: weight {broken[0]!r} is not finite. Lower lr ({settings.lr}).")


def begin_round(
    model: MultimodalModel,
    samples: Samples,
    method: Method,
    settings: TrainingConfig,
    server_round: int,
    partition_id: int,
    received: Received,
) -> LocalRound:
    """Measure the received model and keep what the method needs of it; the parameters are those of :func:`train`."""
    device, num_classes = next(model.parameters()).device, model.spec.num_classes

    def batches() -> Iterator[Batch]:
        return samples.evaluation_batches(model.spec.modalities, device)

    measured = measure(model, batches()) if method.measures else None
    stats, features = (measured.stats, measured.features) if measured else (None, {})
    dominance, teachers = method.teaching(model.owned, server_round, received.dominance, stats)

    # a teacher need not look again at samples that are the same in every epoch
    same = {modality.name for modality in samples.modalities if samples.views.repeat(modality)}
    kept_features = {name: features[name] for name in teachers if name in features and name in same}
    trained = model.trained_parameters().values()
    log_prior_of = {name: value.to(device) for name, value in _log_prior_of(samples, num_classes).items()}

    local = LocalRound(
        owned=model.owned,
        unimodal=len(model.owned) < len(model.spec.modalities) and len(model.owned) == 1,
        global_parameters=[parameter.detach().clone() for parameter in trained],
        teachers={name: _frozen(model.branch(name)) for name in teachers},
        features=kept_features,
        dominance=dominance.to(device),
        stats=stats,
        log_prior=log_prior(samples, samples.rows, num_classes).to(device),
        log_prior_of=log_prior_of,
        batches=batches,
        generator=torch_generator(settings.seed, "method", server_round, partition_id),
    )
    return replace(local, method_state=method.prepare(model, local, received.from_server, received.memory))


def log_prior(samples: Samples, rows: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return ln of each class's share among some rows, [classes]; half a sample is added to each class."""
    counts = torch.bincount(torch.from_numpy(samples.labels[rows]), minlength=num_classes) + 0.5
    return (counts / counts.sum()).log()


def _log_prior_of(samples: Samples, num_classes: int) -> dict[Modality, torch.Tensor]:
    """Return the same among the samples that have a modality, for each modality that some of them lack."""
    has, names = samples.has[samples.rows], (modality.name for modality in samples.modalities)
    columns = {name: column for name, column in zip(names, has.T, strict=True) if not column.all()}
    return {name: log_prior(samples, samples.rows[column], num_classes) for name, column in columns.items()}


def _frozen(branch: Branch) -> Branch:
    """Return a copy of a branch that teaches: in eval mode, without gradients."""
    teacher = copy.deepcopy(branch).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


class RunningLosses:
    """Sums of loss terms over samples; they stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: LossTerms, samples: int) -> None:
        """Add a batch's mean terms, weighted by its samples."""
        for name, value in terms.values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() * samples
            self.counts[name] = self.counts.get(name, 0) + samples

    def sums(self) -> dict[str, float]:
        """Return the sums as numbers, in one transfer."""
        names, totals = list(self.totals), list(self.totals.values())
        return dict(zip(names, torch.stack(totals).tolist(), strict=True)) if names else {}

    def check(self, epoch: int, settings: TrainingConfig) -> None:
        """Raise FloatingPointError when a term is no longer finite."""
        broken = [name for name, total in self.sums().items() if not math.isfinite(total)]
        if broken:
            raise FloatingPointError(
                f"training diverged: loss term {broken[0]!r} is not finite after local epoch {epoch + 1}. Lower lr "
                f"({settings.lr}) or the term's weight; with kd, turn on kd-temperature-scaling."
            )
