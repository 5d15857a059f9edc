"""Names that nodes of this project's ClientApp may use in their replies."""

from collections.abc import Sequence

from client_app.personal import personal_name
from fedcmi_flwr.evaluation.counts import prediction_names
from fedcmi_flwr.methods import LOSS_TERMS, METHODS
from fedcmi_flwr.run_config import RunConfig
from fedcmi_flwr.strategy.expected import ExpectedNames
from fedcmi_flwr.types import Modality


def expected_names(config: RunConfig, modalities: Sequence[Modality]) -> ExpectedNames:
    """Return the loss terms and predictions of a run.

    The terms of a method from outside are its own.

    Parameters
    ----------
    config
        The run's.
    modalities
        Of the federation.

    Returns
    -------
    The names.
    """
    shown = prediction_names(modalities)
    personal = (
        [personal_name(name) for name in shown] if config.evaluation.personal_epochs > 0 else []
    )
    return ExpectedNames(
        LOSS_TERMS if config.method_name in METHODS else None, frozenset([*shown, *personal])
    )
