"""Which round's model a run keeps, and when it has trained long enough."""

from dataclasses import dataclass

from fedcmi_flwr.config.fields import ConfigError, Settings, choice, number

OFF = "off"
METRICS = ("fused", "macro", "worst-class", "f1")
"""Of the fused prediction, larger is better: accuracy, its mean and its minimum over classes,
mean F1 over classes."""


@dataclass(frozen=True)
class SelectionConfig(Settings):
    """Choosing the finished model by validation data, which is neither trained nor reported on."""

    keep_best: str = choice(OFF, *METRICS, default=OFF)
    """What the round is chosen by whose (averaged) model is kept: accuracy ("fused"), its mean
    ("macro") or minimum ("worst-class") over classes, or the mean F1 over classes ("f1"), all
    of the fused prediction on validation data: the data's split "val", ``calibration_share``
    or ``validation_share``, never the test split. "off": the last round's."""
    patience: int = number(0, default=0)
    """Rounds without a better one after which the run ends; 0: it trains all of them."""

    def __post_init__(self) -> None:
        """Check each key, and keys against each other."""
        super().__post_init__()
        if self.patience > 0 and self.keep_best == OFF:
            raise ConfigError(
                f"patience = {self.patience}: set keep-best, which says what is better: one of "
                f"{METRICS}."
            )
