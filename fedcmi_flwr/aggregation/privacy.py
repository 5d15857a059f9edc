"""Differential privacy of nodes.

On the server, a clipped Gaussian mechanism for each parameter group, and its account.

What is protected is a node's whole data: of two federations that differ in the data of one node,
with the same nodes taking part and owning the same modalities (that much is public), nobody who
sees what is released can tell well which one it was. The server sees all replies and is trusted.

**Releases.** Of each node that is asked to train, the server uses one vector per parameter group
(trained minus sent) and, where the method measures, one vector of class statistics. Each is
scaled down to a norm of at most 1 (in units of C or S), added up over nodes, and gets N(0, z^2)
in every coordinate. The sums of groups are divided by the number of nodes *asked*, which does
not depend on data: a reply that is refused or missing counts as no change. Other data on one
node move each of its vectors by at most 2 ("replace one"). Everything else that is made of the
noisy sums (weights, server optimiser, moving average, dominant modality, temperatures,
accuracies) is post-processing.

**Account.** k releases, each of sensitivity 2 and noise z, are together one Gaussian mechanism
of sensitivity 2 sqrt(k) and noise z, also when later ones depend on earlier ones (Dong, Roth and
Su, 2022): its noise multiplier is z / (2 sqrt(k)), and its epsilon at a given delta is exact
(Balle and Wang, 2018; ``dp_accounting``). k is counted for each node, and the epsilon of a run
is that of the node with the most. Which nodes are sampled is drawn from the run's seed, which
nodes know, and written to metrics.jsonl; a sample that is no secret amplifies nothing, so no
amplification is claimed: a node is charged for the rounds in which it was asked, and for no
others.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr.aggregation.group_optimizers import BUFFERS
from fedcmi_flwr.config.fields import Settings, number
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.methods import Method
from fedcmi_flwr.types import AnyArray, ClassStats, Modality

Vector = NDArray[np.float64]
Noise = Callable[[int], Vector]
"""Gives so many independent standard normal numbers."""


class PrivacyBudgetError(RuntimeError):
    """The next round would spend more than the privacy budget; no node was asked."""


def system_noise(size: int) -> Vector:
    """Return standard normal numbers made of the operating system's entropy.

    No seed brings them back.

    The inverse distribution function of 52 random bits each, so none is beyond +-8.2. The
    rounding of double precision is not hidden (Mironov, 2012).
    """
    with needs("privacy"):
        from scipy.special import ndtri

    bits = np.frombuffer(os.urandom(8 * size), dtype=np.uint64) >> np.uint64(12)
    normal: Vector = ndtri((bits.astype(np.float64) + 0.5) / 2**52)

    return normal


@dataclass(frozen=True)
class Privacy(Settings):
    """Differential privacy of nodes, by a clipped Gaussian mechanism; the server is trusted.

    This file's docstring says what is protected and derives the account. An instance with noise
    needs dp-accounting, or raises ModuleNotFoundError.
    """

    noise_multiplier: float = number(0, key="dp-noise-multiplier")
    """z: standard deviation of the noise on each sum over nodes, in units of what one node's
    part is clipped to; 0: no differential privacy."""
    clip_norm: float = number(0, above=True, key="dp-clip-norm", default=1.0)
    """C: largest Euclidean norm of a node's update of one parameter group."""
    statistics_clip_norm: float = number(0, above=True, key="dp-statistics-clip-norm", default=1.0)
    """S: largest Euclidean norm of a node's class statistics, sums and counts of all its
    modalities together."""
    delta: float = number(0, 1, above=True, below=True, key="dp-delta", default=1e-5)
    """The delta at which epsilon is given; well below 1 / number of nodes."""
    max_epsilon: float = number(0, key="dp-max-epsilon", default=0.0)
    """Budget: the run ends, finished, before a round that would spend more; 0: no bound."""
    noise: Noise = system_noise
    """Where the noise comes from; tests put theirs here."""

    def __post_init__(self) -> None:
        """Check ranges, and that the accountant is installed where it is needed."""
        super().__post_init__()
        if self.enabled:
            self.epsilon(1)

    @property
    def enabled(self) -> bool:
        """Whether there is differential privacy."""
        return self.noise_multiplier > 0

    # ---- mechanism

    def average(
        self,
        before: Mapping[str, AnyArray],
        updates: Sequence[Mapping[str, AnyArray]],
        groups: Mapping[str, Sequence[str]],
        asked: Mapping[str, int],
    ) -> dict[str, AnyArray]:
        """Return the weights plus, for each group, (sum of clipped updates + N(0, (z C)^2)) / nodes
        asked.

        Nodes have equal weights: their numbers of samples would be one more release.

        Parameters
        ----------
        before
            Name -> array that was sent, floating point.
        updates
            Name -> trained array of each node whose reply can be used; nodes of other groups
            lack a group's names.
        groups
            Group -> names, of the groups to change; the others keep their values.
        asked
            Group -> nodes that were sent it, 1 or more.

        Returns
        -------
        Name -> array, of the names, shapes and dtypes of ``before``.
        """
        averaged = dict(before)
        for group, names in groups.items():
            start = _flat(before, names)
            total = self.noise(start.size) * (self.noise_multiplier * self.clip_norm)
            for trained in (update for update in updates if names[0] in update):
                with np.errstate(over="ignore"):
                    change = _flat(trained, names) - start

                total = total + clipped(change, self.clip_norm)

            cuts = np.cumsum([before[name].size for name in names])[:-1]
            for name, part in zip(names, np.split(start + total / asked[group], cuts), strict=True):
                averaged[name] = part.reshape(before[name].shape).astype(before[name].dtype)

        return averaged

    def statistics(
        self, parts: Sequence[ClassStats], modalities: Sequence[Modality], num_classes: int
    ) -> ClassStats:
        """Return the nodes' class statistics added up, each clipped to S, with N(0, (z S)^2) in
        every number.

        What noise has moved out of range is moved back: counts to 0 or above, sums into [0,
        count]. A class whose count ends at 0 counts as not measured.

        Parameters
        ----------
        parts
            Of each node whose reply can be used.
        modalities
            What is released; the others are dropped.
        num_classes
            C, the length of each array.

        Returns
        -------
        Sums and (real-valued) counts of each of ``modalities``.
        """
        total = {name: self._noise(2 * num_classes) for name in modalities}
        for part in parts:
            names = list(part.count)
            joint = np.concatenate(
                [np.concatenate([part.probability_sum[name], part.count[name]]) for name in names]
            )
            for name, mine in zip(
                names, np.split(clipped(joint, self.statistics_clip_norm), len(names)), strict=True
            ):
                if name in total:
                    total[name] = total[name] + mine

        count = {name: np.maximum(value[num_classes:], 0) for name, value in total.items()}
        sums = {name: np.clip(value[:num_classes], 0, count[name]) for name, value in total.items()}

        return ClassStats(sums, count)

    def _noise(self, size: int) -> Vector:
        return self.noise(size) * (self.noise_multiplier * self.statistics_clip_norm)

    # ---- account

    def epsilon(self, releases: int) -> float:
        """Return epsilon at ``delta`` for a node after so many releases.

        Parameters
        ----------
        releases
            k of this file's docstring, 0 or more.

        Returns
        -------
        Exact, for replacing one node's data.

        Raises
        ------
        MissingExtraError
            dp-accounting is not installed.
        """
        with needs("privacy"):
            from dp_accounting import get_epsilon_gaussian

        if releases == 0:
            return 0.0

        return float(
            get_epsilon_gaussian(self.noise_multiplier / (2 * math.sqrt(releases)), self.delta)
        )

    def spent(self, releases: Mapping[int, int]) -> dict[str, float]:
        """Return "epsilon", of the node with the most releases, and "delta".

        Parameters
        ----------
        releases
            Partition id -> releases so far.

        Returns
        -------
        What a round's record says.
        """
        return {"epsilon": self.epsilon(max(releases.values(), default=0)), "delta": self.delta}

    def charge(self, releases: Mapping[int, int], asked: Mapping[int, int]) -> dict[int, int]:
        """Return the account after one more round.

        Parameters
        ----------
        releases
            Partition id -> releases so far.
        asked
            Partition id -> vectors that the round will take of it.

        Returns
        -------
        The new account, like ``releases``.

        Raises
        ------
        PrivacyBudgetError
            It would exceed ``max_epsilon``.
        """
        after = dict(Counter(releases) + Counter(asked))
        now, then = (self.spent(account)["epsilon"] for account in (releases, after))
        if 0 < self.max_epsilon < then:
            raise PrivacyBudgetError(
                f"the privacy budget is spent: epsilon is {now:.4g} and would be {then:.4g} after "
                f"one more round, over the maximum of {self.max_epsilon:g} (delta = "
                f"{self.delta:g})."
            )

        return after


NO_PRIVACY = Privacy(noise_multiplier=0.0)
"""Differential privacy is off."""


def clipped(vector: Vector, norm: float) -> Vector:
    """Return the vector scaled down to at most this Euclidean norm.

    Parameters
    ----------
    vector
        Any numbers.
    norm
        Above 0.

    Returns
    -------
    Vector of the same shape; zeros where the length is beyond double precision.

    Examples
    --------
    >>> clipped(np.array([3.0, 4.0]), 1.0)
    array([0.6, 0.8])
    >>> clipped(np.array([3.0, 4.0]), 6.0)
    array([3., 4.])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        length = float(np.linalg.norm(vector))

    if not math.isfinite(length):
        return np.zeros_like(vector)

    return vector * (norm / length) if length > norm else vector


def check_protected(
    method: Method, fraction_evaluate: float, aggregation: str, max_example_ratio: float
) -> None:
    """Raise ValueError if a federation releases what is not protected, or what the account leaves
    out.

    Parameters
    ----------
    method
        Its nodes must send no arrays of their own.
    fraction_evaluate
        Share of the nodes that evaluate on their own samples; 0.
    aggregation
        Name of what becomes of the updates; "mean", since the account is that of a sum.
    max_example_ratio
        Bound on a reply's weight relative to the others'; 0 (off).
    """
    if type(method).check_reply is not Method.check_reply:
        # The base's refuses whatever a node sends for the method
        raise ValueError(
            f"differential privacy: {type(method).__name__}'s nodes send arrays of their own "
            "beside the weights, which are not protected; choose a method that sends none."
        )
    if fraction_evaluate > 0:
        raise ValueError(
            f"differential privacy: fraction-evaluate = {fraction_evaluate}: what nodes count on "
            "their own samples is not protected; 0."
        )
    if aggregation != "mean":
        raise ValueError(
            f"differential privacy: aggregation = {aggregation!r}: the account is that of a mean "
            "of clipped updates, in which one node's update moves the average by a bounded step "
            "anyway; 'mean'."
        )
    if max_example_ratio > 0:
        raise ValueError(
            f"differential privacy: max-example-ratio = {max_example_ratio}: nodes have equal "
            "weights, and the median of their samples is not protected; 0."
        )


def check_arrays(arrays: Mapping[str, AnyArray]) -> None:
    """Raise ValueError if an array cannot take noise.

    Integers, and batch norm's running statistics.

    Parameters
    ----------
    arrays
        Name -> array of the model that nodes train.
    """
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating) or name.endswith(BUFFERS):
            raise ValueError(
                f"differential privacy: {name!r} ({array.dtype}) is a counter or a running statistic, which noise "
                'would break; set normalization = "group".'
            )


def _flat(arrays: Mapping[str, AnyArray], names: Sequence[str]) -> Vector:
    return np.concatenate([np.asarray(arrays[name], dtype=np.float64).ravel() for name in names])
