"""Which failures a run puts up with."""

from dataclasses import dataclass

from fedcmi_flwr.config.fields import Settings, number


@dataclass(frozen=True)
class Tolerance(Settings):
    """What a round needs for the model to change, and how many rounds may fail."""

    min_replies: int = number(1, default=1)
    """A round with fewer replies that can be used fails: the model stays as it was."""
    min_owners_per_modality: int = number(1, default=1)
    """A modality that fewer nodes trained in a round keeps its parameters, and its class
    statistics do not count."""
    failure_budget: int = number(0, default=3)
    """Failed rounds in a row that are put up with once a round has succeeded; the next one ends
    the run, which leaves a checkpoint to go on from."""
