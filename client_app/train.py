"""Local training: one visible loop for every method."""

import copy
from dataclasses import dataclass

import torch

from fedcmi_flwr.config import TrainingConfig
from fedcmi_flwr.dataset import Samples
from fedcmi_flwr.dominance import Dominance
from fedcmi_flwr.evaluate import EVALUATION_BATCH, class_statistics
from fedcmi_flwr.methods import LocalRound, Method
from fedcmi_flwr.model import Branch, MultimodalModel
from fedcmi_flwr.seeding import torch_generator
from fedcmi_flwr.types import ClassStats, LossTerms


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training gives besides the trained model."""

    stats: ClassStats | None
    """Class statistics on the received model."""
    loss_sum: dict[str, float]
    """Loss term -> sum over samples and epochs, in nats."""
    loss_count: dict[str, int]
    """Loss term -> samples in the sum."""


def train(
    model: MultimodalModel,
    samples: Samples,
    method: Method,
    settings: TrainingConfig,
    server_round: int,
    partition_id: int,
    dominance: Dominance,
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
        The node's number; with seed and round it decides the order of the samples.
    dominance
        The server's decision.

    Returns
    -------
    Statistics and losses.

    Raises
    ------
    FloatingPointError
        A loss became NaN or Inf.
    """
    device = next(model.parameters()).device
    local = begin_round(model, samples, method, server_round, dominance)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate(server_round),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    generator = torch_generator(settings.seed, "batches", server_round, partition_id)
    losses = RunningLosses()
    model.train()
    for epoch in range(settings.local_epochs):
        for batch in samples.training_batches(settings.batch_size, model.spec.modalities, generator):
            batch = batch.to(device)
            terms = method.loss_terms(model, batch, model(batch), local)
            optimizer.zero_grad()
            terms.total().backward()
            method.adjust_gradients(model, local)
            optimizer.step()
            losses.add(terms, len(batch.labels))
        losses.check(epoch, settings)
    return LocalResult(local.stats, losses.sums(), losses.counts)


def begin_round(
    model: MultimodalModel, samples: Samples, method: Method, server_round: int, received: Dominance
) -> LocalRound:
    """Measure the received model and keep what the method needs of it."""
    stats = None
    if method.measures:
        stats = class_statistics(model, samples.batches(EVALUATION_BATCH, model.spec.modalities))
    dominance, teachers = method.teaching(model.owned, server_round, received, stats)
    return LocalRound(
        owned=model.owned,
        unimodal=len(model.owned) < len(model.spec.modalities) and len(model.owned) == 1,
        global_parameters=[parameter.detach().clone() for parameter in model.parameters()],
        teachers={name: _frozen(model.branch(name)) for name in teachers},
        dominance=dominance,
        stats=stats,
    )


def _frozen(branch: Branch) -> Branch:
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
        """Return the sums as numbers."""
        return {name: float(total) for name, total in self.totals.items()}

    def check(self, epoch: int, settings: TrainingConfig) -> None:
        """Raise FloatingPointError when a term is no longer finite."""
        broken = [name for name, total in self.sums().items() if not torch.isfinite(torch.tensor(total))]
        if broken:
            raise FloatingPointError(
                f"training diverged: loss term {broken[0]!r} is not finite after local epoch {epoch + 1}. Lower lr "
                f"({settings.lr}) or the term's weight; with kd, turn on kd-temperature-scaling."
            )
