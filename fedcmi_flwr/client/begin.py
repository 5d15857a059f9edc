"""What is done on a node before the first step.

The received model is measured, and what the method needs is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from fedcmi_flwr.client.adapted import AdaptedModel, measure_adapted
from fedcmi_flwr.client.samples import NodeSamples, log_prior
from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import LocalRound, Method
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import ClassStats, Modality


@dataclass(frozen=True)
class Received:
    """What a node has before it trains, besides the global model and its samples."""

    dominance: Dominance = NOBODY
    """The server's decision."""
    from_server: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What the method's state on the server has for this node."""
    memory: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What the method kept on this node from its last turn."""


def begin_round(
    model: MultimodalModel,
    samples: NodeSamples,
    method: Method,
    server_round: int,
    received: Received,
    generator: torch.Generator,
) -> LocalRound:
    """Measure the received model and keep what the method needs of it.

    Parameters
    ----------
    model
        The received global model, with the branches that the node owns.
    samples
        The node's.
    method
        It says what it needs.
    server_round
        Counted from 1.
    received
        What came with the model, and what the node kept.
    generator
        The method's own random numbers, on the CPU.

    Returns
    -------
    The round as the method's hooks see it.
    """
    device = next(model.parameters()).device
    stats, features = _measured(model, samples) if method.measures else (None, {})
    dominance, teachers = method.teaching(model.owned, server_round, received.dominance, stats)

    # a teacher need not look again at samples that are the same in every epoch
    kept_features = {
        name: features[name] for name in teachers if name in features and name in samples.same
    }
    trained = model.trained_parameters().values()
    tally = samples.tally()

    local = LocalRound(
        owned=model.owned,
        unimodal=len(model.owned) < len(model.spec.modalities) and len(model.owned) == 1,
        global_parameters=[parameter.detach().clone() for parameter in trained],
        teachers={name: model.teacher(name) for name in teachers},
        features=kept_features,
        dominance=dominance.to(device),
        stats=stats,
        log_prior=log_prior(tally.classes).to(device),
        log_prior_of={
            name: log_prior(counts).to(device) for name, counts in tally.classes_of.items()
        },
        batches=samples.batches,
        generator=generator,
    )

    return replace(
        local, method_state=method.prepare(model, local, received.from_server, received.memory)
    )


def _measured(
    model: MultimodalModel, samples: NodeSamples
) -> tuple[ClassStats, Mapping[Modality, torch.Tensor]]:
    """Return the class statistics and, of a model that has them, what each encoder makes of each
    sample.
    """
    if isinstance(model, AdaptedModel):
        return measure_adapted(model, samples.batches()), {}

    measured = measure(model, samples.batches())
    return measured.stats, measured.features
