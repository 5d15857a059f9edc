"""The moving average of the global weights over rounds, which goes back with what nodes found unusable."""

from collections.abc import Mapping

from fedcmi_flwr.aggregation.mean import moving_average
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import AnyArray

Arrays = Mapping[str, AnyArray]


class AveragedModel:
    """What is evaluated after a round and saved.

    Parameters
    ----------
    share
        ``averaging`` of the method; 0: the average is the last round's weights.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.value: Arrays | None = None
        """None: no round has succeeded yet."""
        self.before: Arrays | None = None
        """The average without the last round that succeeded, whose model nodes may still find unusable."""
        self.last_round = 0
        """The last round that the average knows of; round 0's random weights are no part."""

    def restore(self, server_round: int, value: Arrays, before: Arrays | None) -> None:
        """Take over what a run goes on from: its round, the average after it and, where it is known, before it."""
        self.last_round, self.value, self.before = server_round, value or None, before or None

    def after(self, server_round: int, current: Arrays, report: RoundReport) -> Arrays:
        """Return what is shown after a round.

        Parameters
        ----------
        server_round
            Counted from 1; 0: before the first.
        current
            The global model.
        report
            The round's.

        Returns
        -------
        The average; the global model itself where there is none yet.
        """
        if server_round > self.last_round:
            self._go_back(current, report)
            if not report.failed:
                self.before = self.value
                self.value = moving_average(self.value, current, self.share)
            self.last_round = server_round
        return self.value or current

    def _go_back(self, current: Arrays, report: RoundReport) -> None:
        """Take groups that went back to their last good weights out of the average."""
        if report.rolled_back and self.value is not None:
            before = self.before or current
            names = [name for group in report.rolled_back for name in report.plan.names[group]]
            self.value = {**self.value, **{name: before[name] for name in names}}
