"""Which parts of a method a node must apply, so that a run is the method that it is called."""

from dataclasses import dataclass

from fedcmi_flwr.methods.base import Method
from fedcmi_flwr.methods.hyperparameters import hyperparameters

ELSEWHERE = frozenset(
    {"averaging", "normalization", "infiltration", "self-head-votes", "infiltration-votes"}
)
"""Hyperparameters that the server, or the model's architecture, answers for."""
GRADIENT_TERMS = frozenset({"mu", "max-gradient-norm"})
"""Those that are applied to the gradients."""


@dataclass(frozen=True)
class Applied:
    """What a node says it did."""

    method: str
    """Name of the method, as the task has it under "method"."""
    terms: tuple[str, ...] = ()
    """Keys of the method's hyperparameters that were at work: "mu", "lambda", ..."""


def terms_of(method: Method) -> tuple[str, ...]:
    """Return the hyperparameters that are on and must be applied on the nodes.

    Parameters
    ----------
    method
        With the run's values.

    Returns
    -------
    Keys, in the order of the dataclass.

    Examples
    --------
    >>> from fedcmi_flwr.methods.fedavg import FedProx
    >>> terms_of(FedProx(mu=0.1, averaging=0.7))
    ('mu',)
    """
    values = hyperparameters(method).items()
    return tuple(
        key
        for key, value in values
        if key not in ELSEWHERE and not isinstance(value, str) and value > 0
    )


def changes_loss(method: Method) -> bool:
    """Return whether the method's loss is more than the model's own cross-entropy."""
    return type(method).loss_terms is not Method.loss_terms or method.prior_adjustment > 0


def changes_gradients(method: Method) -> bool:
    """Return whether the method changes gradients before the optimiser's step."""
    kind = type(method)
    own = (
        kind.adjust_gradients is not Method.adjust_gradients
        or kind.clip_gradients is not Method.clip_gradients
    )
    return own or any(term in GRADIENT_TERMS for term in terms_of(method))


def needs_client(method: Method) -> bool:
    """Return whether a node that trains in its own way would be FedAvg under another name."""
    finishes = type(method).finish is not Method.finish
    return changes_loss(method) or changes_gradients(method) or finishes or bool(terms_of(method))
