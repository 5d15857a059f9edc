"""Whether a node did what the run's method asks of it.

A method of which the nodes do only FedAvg is FedAvg.
"""

from fedcmi_flwr.methods import METHODS, Method, hyperparameters
from fedcmi_flwr.methods.applied import GRADIENT_TERMS, Applied, needs_client, terms_of
from fedcmi_flwr.wire import WireError

HOW = (
    "Train with fedcmi_flwr.client: objective = LocalObjective.from_message(message, model, "
    "context, samples=loader), objective(outputs, labels), objective.step(optimizer), "
    "objective.reply(num_examples). Where the node only trains in its own way, the run's method "
    "is METHODS['fedavg']."
)


def name_of(method: Method) -> str:
    """Return the name by which nodes find a method's class; its hyperparameters travel beside it.

    Parameters
    ----------
    method
        Any; one of METHODS with other values has the name of that with its class's own values.

    Returns
    -------
    One of METHODS, or an import path.

    Examples
    --------
    >>> from fedcmi_flwr.methods import CrossModalInfiltration
    >>> name_of(METHODS["fedprox"]), name_of(CrossModalInfiltration(gamma=1.0))
    ('fedprox', 'fedcmi')
    """
    kind = type(method)
    same_class = {name: known for name, known in METHODS.items() if type(known) is kind}
    for wanted in (method, kind()):  # the very one, else the one with the class's own values
        for name, known in same_class.items():
            if known == wanted:
                return name

    return next(iter(same_class), f"{kind.__module__}:{kind.__qualname__}")


def check_applied(applied: Applied | None, name: str, method: Method) -> None:
    """Raise WireError unless a node applied the method that it was asked for.

    Parameters
    ----------
    applied
        What its reply says; None: nothing.
    name
        What the node was asked for.
    method
        The same, with its hyperparameters.

    Raises
    ------
    WireError
        Another method, or a term that was left out; the text says which, and what to call.
    """
    if not needs_client(method) and (applied is None or applied.method == name):
        return
    if applied is None:
        raise WireError(
            f"method {name!r} was asked for, but the reply does not say that the node applied it. "
            f"{HOW}"
        )
    if applied.method != name:
        raise WireError(
            f"method {name!r} was asked for, but the node applied {applied.method!r}. {HOW}"
        )

    values = hyperparameters(method)
    left_out = [term for term in terms_of(method) if term not in applied.terms]
    if left_out:
        term = left_out[0]
        call = (
            "objective.step(optimizer)" if term in GRADIENT_TERMS else "objective(outputs, labels)"
        )
        raise WireError(
            f"method {name!r}: {term} = {values[term]!r} was asked for, but not applied "
            f"({len(left_out)} left out: {', '.join(left_out)}); {call} of "
            "fedcmi_flwr.client.LocalObjective does it, or give the strategy a method without it."
        )
