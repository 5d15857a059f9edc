"""Flower's server optimisers, one instance per parameter group, behind any method's local training."""

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi

from fedcmi_flwr.config.names import OPTIMIZERS
from fedcmi_flwr.types import AnyArray

MOMENTS = ("momentum_vector", "m_t", "v_t")
"""Attributes in which Flower's strategies keep their moments: a list in FedAvgM, name -> array in the others."""
OWN_LR = {"fedavgm": 1.0, "fedadam": 0.01, "fedyogi": 0.01}
"""Learning rates where none is given; a first step of Adam or Yogi moves every weight by about as much."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of batch norm's buffers: averages, not weights; a step could make a variance negative."""


class ServerOptimizer:
    """Takes each group's average for a step of Flower's FedAvgM, FedAdam or FedYogi from the old weights.

    Each group has an optimiser of its own, whose moments stand still in rounds in which nobody trained the group.
    Source: Hsu et al., 2019 (FedAvgM); Reddi et al., ICLR 2021 (FedAdam, FedYogi).

    Parameters
    ----------
    name
        "fedavgm", "fedadam" or "fedyogi".
    lr
        Learning rate of the server, above 0.
    momentum
        Momentum (fedavgm) or beta_1, in [0, 1).

    Raises
    ------
    ValueError
        Unknown name, or a learning rate or momentum out of range.
    """

    def __init__(self, name: str, lr: float, momentum: float) -> None:
        if name not in OPTIMIZERS[1:]:
            raise ValueError(f"server-optimizer {name!r}: not one of {list(OPTIMIZERS)}.")
        if not 0 < lr < math.inf or not 0 <= momentum < 1:
            raise ValueError(f"server-lr {lr} must be above 0 and finite, server-momentum {momentum} in [0, 1).")
        self.name = name
        self.lr = lr
        self.momentum = momentum
        self._of_group: dict[str, FedAvgM | FedAdam | FedYogi] = {}
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
        Name -> array: stepped for the groups' weights, the average itself for buffers and integers. A group whose new
        weights or moments would not be finite is left out, and its optimiser stays as it was.
        """
        stepped = dict(averaged)
        for group, names in groups.items():
            # A copy of the attributes is enough: Flower's strategies put new moments in their place
            optimizer = copy.copy(self._of_group[group]) if group in self._of_group else self._new()
            step = self._steps[group] + 1  # Adam's bias correction counts the optimiser's own steps, not the rounds
            weights = [name for name in names if _is_weight(name, before[name])]
            old, new = ({name: source[name] for name in weights} for source in (before, averaged))
            with np.errstate(over="ignore", invalid="ignore"):
                found = _flower_step(optimizer, step, old, new)
                arrays = {name: np.asarray(found[name], dtype=before[name].dtype) for name in weights}
            if all(np.isfinite(value).all() for value in (*arrays.values(), *_moments(optimizer).values())):
                stepped |= arrays
                self._of_group[group], self._steps[group] = optimizer, step
            else:
                stepped = {name: value for name, value in stepped.items() if name not in names}
        return stepped

    def state(self) -> dict[str, AnyArray]:
        """Return steps and moments of every group, for :meth:`restore`.

        Returns
        -------
        "group/steps" -> number of steps; "group/moment/name" (FedAvgM: "group/moment/position") -> array.
        """
        found: dict[str, AnyArray] = {}
        for group, optimizer in self._of_group.items():
            found[f"{group}/steps"] = np.array(self._steps[group], dtype=np.int64)
            found |= {f"{group}/{key}": value for key, value in _moments(optimizer).items()}
        return found

    def restore(self, state: Mapping[str, AnyArray]) -> None:
        """Take steps and moments over from an optimiser of the same kind.

        Parameters
        ----------
        state
            What :meth:`state` gave, in the same order.
        """
        for key in state:
            group, _, moment = key.partition("/")
            if moment == "steps":
                optimizer = self._of_group[group] = self._new()
                self._steps[group] = int(state[key])
                for name in MOMENTS:
                    prefix = f"{group}/{name}/"
                    values = {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
                    if values:
                        setattr(optimizer, name, list(values.values()) if name == "momentum_vector" else values)

    def _new(self) -> FedAvgM | FedAdam | FedYogi:
        if self.name == "fedavgm":
            return FedAvgM(server_learning_rate=self.lr, server_momentum=self.momentum)
        kind = FedAdam if self.name == "fedadam" else FedYogi
        return kind(eta=self.lr, beta_1=self.momentum)


def _moments(optimizer: FedAvgM | FedAdam | FedYogi) -> dict[str, AnyArray]:
    """Return "moment/name" (FedAvgM: "moment/position") -> array."""
    found: dict[str, AnyArray] = {}
    for moment in MOMENTS:
        values = getattr(optimizer, moment, None) or {}
        items = values.items() if isinstance(values, dict) else enumerate(values)
        found |= {f"{moment}/{key}": np.asarray(value) for key, value in items}
    return found


def _is_weight(name: str, array: AnyArray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and not name.endswith(BUFFERS)


def _flower_step(
    optimizer: FedAvgM | FedAdam | FedYogi,
    step: int,
    old: Mapping[str, AnyArray],
    new: Mapping[str, AnyArray],
) -> dict[str, AnyArray]:
    """Let Flower's strategy aggregate one reply, the average; it steps from its own record of the old weights."""
    records = [ArrayRecord({name: Array(np.asarray(value)) for name, value in part.items()}) for part in (old, new)]
    optimizer.current_arrays = records[0] if isinstance(optimizer, FedAvgM) else dict(old)
    content = RecordDict({"arrays": records[1], "metrics": MetricRecord({optimizer.weighted_by_key: 1})})
    reply = Message(content, reply_to=Message(RecordDict(), dst_node_id=1, message_type="train"))
    arrays, _ = optimizer.aggregate_train(step, [reply])
    if arrays is None:
        raise RuntimeError(f"{type(optimizer).__name__} gave no weights in step {step}.")
    return {name: array.numpy() for name, array in arrays.items()}
