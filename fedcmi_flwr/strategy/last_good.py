"""The last weights of each group that nodes could train on.

Where a round goes back to when all of them find its model unusable.
"""

from collections.abc import Collection, Mapping

from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.types import AnyArray

DIVERGED = ("FloatingPointError", "holds NaN or Inf")
"""In the reason of a refusal: training on the received model led to numbers that are none."""


class LastGood:
    """The weights of each parameter group from which nodes last trained it, and the state at that
    time.

    Parameters
    ----------
    arrays
        Name -> array, of an earlier process's checkpoint before the newest one.
    state
        Of that checkpoint.
    """

    def __init__(
        self, arrays: Mapping[str, AnyArray] | None = None, state: ServerState | None = None
    ) -> None:
        self.state = state
        """None: no round has succeeded yet."""
        self._arrays = dict(arrays or {})

    def note(
        self, plan: RoundPlan, owners: Mapping[str, Collection[int]], state: ServerState
    ) -> None:
        """Take what a round sent for good, as far as somebody trained it.

        Parameters
        ----------
        plan
            The round's, which succeeded.
        owners
            Group -> partitions that trained it.
        state
            Of the strategy when the round began.
        """
        self.state = state
        for group, names in plan.names.items():
            if owners.get(group):
                self._arrays |= {name: plan.arrays[name] for name in names}

    def restore(self, report: RoundReport, groups: Collection[str]) -> dict[str, AnyArray]:
        """Return the weights from which nodes last trained these groups, and note the groups that
        have such weights.

        Parameters
        ----------
        report
            The round's.
        groups
            What nodes found unusable.

        Returns
        -------
        Name -> array; nothing of groups that nobody ever trained.
        """
        found: dict[str, AnyArray] = {}
        for group in groups:
            own = {
                name: self._arrays[name]
                for name in report.plan.names[group]
                if name in self._arrays
            }
            if own:
                found |= own
                report.rolled_back.append(group)
                report.bound(
                    f"Training on {group!r} diverged on every node; it goes back to its last good "
                    "weights."
                )

        return found


def unusable_groups(report: RoundReport, updated: Collection[int]) -> list[str]:
    """Return the groups that nobody could train because training on them diverged.

    Parameters
    ----------
    report
        The round's, with the nodes whose training diverged.
    updated
        Partition ids whose replies can be used.

    Returns
    -------
    Groups of which every owner that answered diverged, and one did at least.
    """
    sent = report.plan.groups_by_partition
    trained = {group for partition in updated for group in sent[partition]}
    diverged = {group for partition in report.diverged for group in sent[partition]}

    return [group for group in report.plan.names if group in diverged - trained]
