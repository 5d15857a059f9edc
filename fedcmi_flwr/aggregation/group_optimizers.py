"""One server optimiser for each parameter group, behind any method's local training."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fedcmi_flwr.aggregation.optimizers import Moments, ServerOptimizer
from fedcmi_flwr.types import AnyArray

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of batch norm's buffers: averages, not weights; a step could make a
variance negative."""


class GroupOptimizers:
    """The optimisers of a run.

    A group's moments stand still in rounds in which nobody trained the group.

    Parameters
    ----------
    settings
        Which optimiser, if any.
    """

    def __init__(self, settings: ServerOptimizer) -> None:
        self._rule = settings.rule
        self._moments: dict[str, Moments] = {}
        self._steps: Counter[str] = Counter()

    def step(
        self,
        before: Mapping[str, AnyArray],
        averaged: Mapping[str, AnyArray],
        groups: Mapping[str, Sequence[str]],
    ) -> dict[str, AnyArray]:
        """Return the new weights.

        Parameters
        ----------
        before
            Name -> array that the nodes trained from.
        averaged
            Name -> average of what they trained.
        groups
            Group -> names, of the groups that somebody trained.

        Returns
        -------
        Name -> array: stepped for the groups' weights, the average itself for buffers, integers
        and where there is no optimiser. A group whose new weights or moments would not be finite
        is left out, and its optimiser stays as it was.
        """
        found = dict(averaged)
        if self._rule is None:
            return found

        for group, names in groups.items():
            # Adam's bias correction counts the optimiser's own steps, not the rounds
            count = self._steps[group] + 1
            weights = [name for name in names if _is_weight(name, before[name])]
            old, new = ({name: source[name] for name in weights} for source in (before, averaged))

            with np.errstate(over="ignore", invalid="ignore"):
                wide, moments = self._rule.step(count, old, new, self._moments.get(group, {}))
                stepped = {
                    name: np.asarray(wide[name], dtype=before[name].dtype) for name in weights
                }

            arrays = [*stepped.values(), *_flat(moments).values()]
            if all(np.isfinite(array).all() for array in arrays):
                found |= stepped
                self._moments[group], self._steps[group] = moments, count
            else:
                found = {name: value for name, value in found.items() if name not in names}

        return found

    def state(self) -> dict[str, AnyArray]:
        """Return steps and moments of every group, for :meth:`restore`.

        Returns
        -------
        "group/steps" -> number of steps; "group/moment/name" (FedAvgM: "group/moment/position")
        -> array.
        """
        found: dict[str, AnyArray] = {}
        for group, moments in self._moments.items():
            found[f"{group}/steps"] = np.array(self._steps[group], dtype=np.int64)
            found |= {f"{group}/{key}": value for key, value in _flat(moments).items()}

        return found

    def restore(self, state: Mapping[str, AnyArray]) -> None:
        """Take steps and moments over from optimisers of the same kind.

        Parameters
        ----------
        state
            What :meth:`state` gave.
        """
        found: dict[str, dict[str, dict[str, AnyArray]]] = {}
        self._steps.clear()
        for key, value in state.items():
            group, moment, *name = key.split("/", 2)
            moments = found.setdefault(group, {})
            if moment == "steps":
                self._steps[group] = int(value)
            else:
                moments.setdefault(moment, {})[name[0]] = value

        self._moments = dict(found)


def _flat(moments: Moments) -> dict[str, AnyArray]:
    """Return "moment/name" -> array."""
    found: dict[str, AnyArray] = {}
    for moment, arrays in moments.items():
        found |= {f"{moment}/{name}": np.asarray(value) for name, value in arrays.items()}

    return found


def _is_weight(name: str, array: AnyArray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and not name.endswith(BUFFERS)
