"""How much a node trains in a round, where nodes differ.

Slow devices do a part of the work, as in FedProx.
"""

from dataclasses import dataclass

from fedcmi_flwr.config.fields import ConfigError, Settings, number, text
from fedcmi_flwr.config.texts import read_assignments

ALLOWED = "'partition=epochs partition=epochs', or empty"


@dataclass(frozen=True)
class WorkConfig(Settings):
    """Work of single nodes in a round; what they have not done is not made up for."""

    node_epochs: str = text(ALLOWED, default="")
    """Passes over their samples of the nodes that are named, by partition id, instead of
    ``local_epochs``: "0=1 3=5". A device may say its own in its node-config."""
    time_budget: float = number(0, default=0.0)
    """Seconds of training after which a node ends the round with the step that it is in; a
    device may say its own in its node-config. The same run then differs from machine to
    machine. 0: off."""

    def __post_init__(self) -> None:
        """Check each key, and what it names."""
        super().__post_init__()
        for partition, epochs in self._epochs().items():
            if not partition.isdecimal() or type(epochs) is not int or epochs < 1:
                raise ConfigError(
                    f"node-epochs = {self.node_epochs!r}: {partition}={epochs!r} must be a "
                    "partition id from 0 and a number of epochs from 1."
                )

    def epochs_of(self, partition: int, default: int) -> int:
        """Return how often a node passes over its samples.

        Parameters
        ----------
        partition
            Its partition id.
        default
            Of nodes that are not named.

        Returns
        -------
        Epochs, from 1.

        Examples
        --------
        >>> work = WorkConfig("0=1 3=5")
        >>> [work.epochs_of(partition, 2) for partition in range(4)]
        [1, 2, 2, 5]
        """
        return int(self._epochs().get(str(partition), default))

    def _epochs(self) -> dict[str, bool | int | float | str]:
        try:
            return read_assignments(self.node_epochs)
        except ValueError as error:
            raise ConfigError(
                f"node-epochs = {self.node_epochs!r}: {error} It must be {ALLOWED}."
            ) from error
