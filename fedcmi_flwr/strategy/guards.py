"""Bounds on what one reply may do to the global model, and a last check of a round's result."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from fedcmi_flwr import wire
from fedcmi_flwr.config.fields import Settings, choice, number
from fedcmi_flwr.methods import Method
from fedcmi_flwr.strategy.expected import ANY_NAMES, ExpectedNames
from fedcmi_flwr.strategy.lazy_arrays import LazyArrays
from fedcmi_flwr.strategy.outliers import too_far
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import SHARED, AnyArray, ClassStats, Modality


@dataclass(frozen=True)
class Guards(Settings):
    """Bounds on what one reply may do to the global model; all but the first are off by default."""

    max_norm_ratio: float = number(1, zero="off", default=100.0)
    """How many times as far as the round's median (the lower one of two) a reply may change a
    parameter group, in its Euclidean norm and in its largest number; what goes farther is
    refused, since no training does that. A change up to this number times a hundredth of what
    was sent, by default as long as the weights, is always let through. Running
    statistics, and what a method sends besides weights, may go this number cubed; of fewer than
    three replies, what was sent is a second witness. 0: off. With differential privacy, which
    clips every update, it does nothing."""
    max_update_norm: float = number(0, default=0.0)
    """Largest Euclidean norm of (update - what was sent), over the floating-point arrays of each
    parameter group for itself; 0: off. What a method sends besides weights is bounded by it
    too, as one vector."""
    update_norm_action: str = choice("clip", "refuse", default="clip")
    """What becomes of a longer one: "clip" scales the group's update down to the norm, "refuse"
    refuses the reply. What a method sends besides weights has units of its own and is always
    scaled down."""
    max_example_ratio: float = number(1, zero="off", default=0.0)
    """Largest weight of a reply, its num-examples, as a multiple of the median (the lower one of
    two) of the round's replies; 0: off. A reply whose weight is cut has its numbers of
    samples with a modality (rounded up) and its class statistics scaled down with it. Then
    the same holds for its number of samples with each modality, as a multiple of the median
    of those that trained the modality."""
    expected: ExpectedNames = ANY_NAMES
    """Names that replies may use; not a key, but what the server knows of its nodes' app."""


def bound_updates(
    updates: Mapping[int, wire.NodeUpdate], report: RoundReport, guards: Guards, method: Method
) -> dict[int, wire.NodeUpdate]:
    """Clip, cap or refuse what goes too far; each is logged and noted with its node.

    Parameters
    ----------
    updates
        Partition id -> update that keeps to the codec.
    report
        The round's; gets the lines.
    guards
        The bounds.
    method
        Says how its own arrays shrink with a reply's weight.

    Returns
    -------
    Partition id -> update, in the order of the partition ids.
    """
    nodes = {info.partition_id: node for node, (info, _) in report.plan.sent.items()}
    found = {partition: updates[partition] for partition in sorted(updates)}
    if guards.max_norm_ratio > 0:
        measured = {partition: report.extents[partition] for partition in found}
        reasons = too_far(measured, report.plan, guards.max_norm_ratio)
        for partition, reason in reasons.items():
            report.refuse(
                nodes[partition],
                f"Reply of {report.plan.describe(nodes[partition])} refused: {reason}",
            )

        found = {
            partition: update for partition, update in found.items() if partition not in reasons
        }

    if guards.max_update_norm > 0:
        checked = {p: _within_norm(update, nodes[p], report, guards) for p, update in found.items()}
        found = {partition: update for partition, update in checked.items() if update is not None}

    if guards.max_example_ratio > 0 and found:
        most = int(
            guards.max_example_ratio * median_low(update.num_examples for update in found.values())
        )
        found = {
            p: _within_weight(update, nodes[p], report, most, method) for p, update in found.items()
        }
        for modality in (group for group in report.plan.names if group != SHARED):
            found |= _within_modality(found, modality, nodes, report, guards.max_example_ratio)

    return found


def finite_or_kept(
    stepped: Mapping[str, AnyArray],
    state: Mapping[str, AnyArray],
    old_state: Mapping[str, AnyArray],
    report: RoundReport,
) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
    """Return the new global model and the method's new state.

    What would not be finite keeps its value and is noted.

    Parameters
    ----------
    stepped
        Name -> array of the new global model.
    state
        What :meth:`Method.combine` returned.
    old_state
        The state before.
    report
        The round's; a group that keeps its value has no owners.

    Returns
    -------
    Name -> array of either.
    """
    arrays, lost_groups = keep_finite(stepped, report.plan)
    for group in lost_groups:
        report.bound(f"Group {group!r} would not be finite; it keeps its value.")
        report.owners[group] = []

    kept, lost_names = keep_finite_state(state, old_state)
    for name in lost_names:
        report.bound(f"The method's {name!r} would not be finite; it keeps its value.")

    return arrays, kept


def keep_finite(
    aggregated: Mapping[str, AnyArray], plan: RoundPlan
) -> tuple[dict[str, AnyArray], list[str]]:
    """Return the new global model; a group that is not finite, or is not there, keeps its value.

    Parameters
    ----------
    aggregated
        Name -> array of the new global model.
    plan
        The round's; it says what was sent.

    Returns
    -------
    Name -> array, with the names and order of what was sent; and the groups that kept their values.
    """
    found = dict(plan.arrays)
    lost = []
    for group, names in plan.names.items():
        if all(name in aggregated and _is_finite(aggregated[name]) for name in names):
            found |= {name: aggregated[name] for name in names}
        else:
            lost.append(group)

    return found, lost


def keep_finite_state(
    new: Mapping[str, AnyArray], old: Mapping[str, AnyArray]
) -> tuple[dict[str, AnyArray], list[str]]:
    """Return a method's new state.

    An array with Inf, or NaN where the old one had a number, keeps its old value.

    Parameters
    ----------
    new
        What :meth:`Method.combine` returned. NaN may stand for "nothing yet", as in FedProto.
    old
        The state before.

    Returns
    -------
    Name -> array, without those that would not be finite and have no old value; and the names of
    what is not new.
    """
    found = {}
    lost = []
    for name, array in new.items():
        before = old.get(name)
        numbers_lost = before is not None and np.isnan(array[~np.isnan(before)]).any()
        if not np.isinf(array).any() and not numbers_lost:
            found[name] = array
            continue

        lost.append(name)
        if before is not None:
            found[name] = before

    return found, lost


def update_norm(arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray]) -> float:
    """Return the Euclidean norm of arrays - sent over the floating-point ones.

    Parameters
    ----------
    arrays
        Name -> array.
    sent
        Name -> array, of the names to look at.

    Returns
    -------
    The norm; Inf where it overflows.

    Examples
    --------
    >>> update_norm({"w": np.array([4.0]), "b": np.array([6.0])}, {"w": np.array([1.0]), "b": np.array([2.0])})
    5.0
    """
    with np.errstate(over="ignore"):
        return math.hypot(
            *(float(np.linalg.norm(_change(arrays[name], sent[name]))) for name in _floating(sent))
        )


def shortened(
    arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray], share: float
) -> LazyArrays:
    """Return sent + share * (arrays - sent) for the floating-point arrays of ``sent``, all others
    as they are.
    """
    floating = set(_floating(sent))

    def read(name: str) -> AnyArray:
        array = arrays[name]
        if name not in floating:
            return array

        change = share * _change(array, sent[name]) if share > 0 else np.zeros(array.shape)

        return np.asarray(np.asarray(sent[name], dtype=np.float64) + change, dtype=array.dtype)

    return LazyArrays(arrays, read)


def _change(array: AnyArray, sent: AnyArray) -> NDArray[np.float64]:
    return np.asarray(np.asarray(array, dtype=np.float64) - np.asarray(sent, dtype=np.float64))


def _floating(arrays: Mapping[str, AnyArray]) -> list[str]:
    return [name for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)]


def _is_finite(array: AnyArray) -> bool:
    return not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())


def _within_norm(
    update: wire.NodeUpdate, node: int, report: RoundReport, guards: Guards
) -> wire.NodeUpdate | None:
    """Return the update with no group longer than allowed; None where the reply is refused."""
    longest = guards.max_update_norm
    arrays = update.arrays
    for group in report.plan.sent[node][1]:
        sent = {name: report.plan.arrays[name] for name in report.plan.names[group]}
        norm = update_norm(update.arrays, sent)
        if norm <= longest:
            continue

        what = (
            f"the update of {group!r} has the norm {norm:.4g}, above max-update-norm = {longest:g}"
        )
        if guards.update_norm_action == "refuse":
            report.refuse(node, f"Reply of {report.plan.describe(node)} refused: {what}.")
            return None

        report.bound(f"Reply of {report.plan.describe(node)}: {what}; it is scaled down to that.")
        arrays = shortened(arrays, sent, longest / norm)

    return replace(
        update, arrays=arrays, from_method=_short_enough(update.from_method, node, report, longest)
    )


def _short_enough(
    arrays: Mapping[str, AnyArray], node: int, report: RoundReport, longest: float
) -> Mapping[str, AnyArray]:
    """Return a method's own arrays, scaled down where they are longer than allowed."""
    nothing = {name: np.zeros((), array.dtype) for name, array in arrays.items()}
    norm = update_norm(arrays, nothing)
    if norm <= longest:
        return arrays

    report.bound(
        f"Reply of {report.plan.describe(node)}: method-arrays have the norm {norm:.4g}, above "
        f"max-update-norm = {longest:g}; they are scaled down to that."
    )

    return shortened(arrays, nothing, longest / norm)


def _within_weight(
    update: wire.NodeUpdate, node: int, report: RoundReport, most: int, method: Method
) -> wire.NodeUpdate:
    """Return the update with a weight that is allowed, and statistics that fit it."""
    if update.num_examples <= most:
        return update

    cut = f"num-examples = {update.num_examples} count as {most}"
    report.bound(f"Reply of {report.plan.describe(node)}: {cut} (max-example-ratio).")
    share = most / update.num_examples
    stats = None if update.stats is None else _fewer_samples(update.stats, share)
    fewer = {
        name: -(-count * most // update.num_examples)
        for name, count in update.modality_examples.items()
    }
    kept = method.scale_reply(update.from_method, share)

    return replace(
        update, num_examples=most, stats=stats, from_method=kept, modality_examples=fewer
    )


def _within_modality(
    updates: Mapping[int, wire.NodeUpdate],
    modality: Modality,
    nodes: Mapping[int, int],
    report: RoundReport,
    ratio: float,
) -> dict[int, wire.NodeUpdate]:
    """Return the updates that say too many samples have a modality, with a number that is
    allowed.
    """
    owners = {
        p: u.examples_of(modality)
        for p, u in updates.items()
        if modality in report.plan.sent[nodes[p]][1]
    }
    trained = [count for count in owners.values() if count > 0]
    most, capped = int(ratio * median_low(trained)) if trained else 0, {}
    for partition, count in owners.items():
        if count <= most:
            continue

        cut = f"num-examples = {count} with {modality} count as {most}"
        report.bound(
            f"Reply of {report.plan.describe(nodes[partition])}: {cut} (max-example-ratio)."
        )
        update = updates[partition]
        stats = None if update.stats is None else _with_fewer(update.stats, modality, most / count)
        capped[partition] = replace(
            update, stats=stats, modality_examples={**update.modality_examples, modality: most}
        )

    return capped


def _with_fewer(stats: ClassStats, modality: Modality, share: float) -> ClassStats:
    """Return the statistics with those of one modality of fewer samples."""
    fewer = _fewer_samples(stats.only([modality]), share)
    return ClassStats(
        {**stats.probability_sum, **fewer.probability_sum}, {**stats.count, **fewer.count}
    )


def _fewer_samples(stats: ClassStats, share: float) -> ClassStats:
    """Return statistics of fewer samples with the same mean probabilities.

    Counts are rounded down.
    """
    counts = {name: np.floor(count * share).astype(np.int64) for name, count in stats.count.items()}
    sums = {
        name: stats.probability_sum[name] * (count / np.maximum(stats.count[name], 1))
        for name, count in counts.items()
    }
    return ClassStats(sums, counts)
