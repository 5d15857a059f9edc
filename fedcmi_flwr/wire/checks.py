"""What a node's reply must keep to; everything else is refused with a reason that names the key."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fedcmi_flwr.evaluation.calibration import NUM_BINS
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.types import AnyArray, ClassStats, Modality
from fedcmi_flwr.wire.packing import WireError

MOST_SAMPLES = 10**12
"""No node has more samples, nor passes over them; sums over nodes stay whole numbers of 64 bits."""
LARGEST_SUM = 1e100
"""No sum of losses in single precision over that many samples is larger; sums over nodes stay finite."""
VARIANCE = "running_var"
"""Last part of the name of batch norm's variance; below 0 its root, and so all that follows, would be NaN."""
MOST_SECONDS = 1e9
"""No training takes 30 years."""
LONGEST_NAME = 100
"""Characters of the name of a loss term or a prediction."""
LONGEST_LINE = 2000
"""Characters of a line about a reply that are kept."""


def check_arrays(arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray]) -> None:
    """Raise WireError unless the arrays have the names, shapes and dtypes of those sent, and values that can be."""
    missing, extra = sorted(set(sent) - set(arrays)), sorted(set(arrays) - set(sent))
    if missing or extra:
        raise WireError(f"arrays: missing {missing}, extra {extra}.")
    for name, array in arrays.items():
        expected = sent[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise WireError(
                f"arrays: {name!r} is {array.dtype} {list(array.shape)}, expected {expected.dtype} "
                f"{list(expected.shape)}."
            )
        if name.endswith(VARIANCE) and (np.asarray(array, np.float64) < 0).any():
            raise WireError(f"arrays: {name!r} is a variance and holds a number below 0.")
    check_finite(arrays)


def check_finite(arrays: Mapping[str, AnyArray]) -> None:
    """Raise WireError if a floating-point array holds NaN or Inf."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise WireError(f"arrays: {name!r} holds NaN or Inf.")


def check_stats(stats: ClassStats, num_examples: int, modality_examples: Mapping[Modality, int]) -> None:
    """Raise WireError unless 0 <= probability sum <= count for every class and modality, and no count is made up."""
    for name, count in stats.count.items():
        total = stats.probability_sum[name]
        if (count < 0).any() or (total < 0).any() or (total > count * (1 + 1e-6)).any():
            raise WireError(f"metrics: class statistics of {name!r} are out of range: need 0 <= sum <= count.")
        if count.sum() > num_examples:
            found = f"{count.sum()} samples, but num-examples = {num_examples}"
            raise WireError(f"metrics: class statistics of {name!r} are of {found}.")
        if count.sum() > modality_examples.get(name, num_examples):
            found = f"{count.sum()} samples, but num-examples.{name} = {modality_examples[name]}"
            raise WireError(f"metrics: class statistics of {name!r} are of {found}.")


def check_losses(sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
    """Raise WireError unless every loss term has a finite sum and a number of samples."""
    if set(sums) != set(counts):
        raise WireError(f"metrics: loss-sum.* of {sorted(sums)}, but loss-count.* of {sorted(counts)}.")
    for name, total in sums.items():
        if not abs(total) <= LARGEST_SUM or not 0 <= counts[name] <= MOST_SAMPLES:
            raise WireError(f"metrics: the loss {name!r} has the sum {total} over {counts[name]} samples.")


def check_counts(name: str, found: Counts, num_examples: int) -> None:
    """Raise WireError unless one prediction's counts can be of num-examples samples; bins may be left empty."""
    bins = found.bins
    for correct, count in ((found.correct, found.count), (bins.correct, bins.count)):
        if (correct < 0).any() or (correct > count).any():
            raise WireError(f"metrics: counts of {name!r} are out of range: need 0 <= correct <= count.")
    if found.count.sum() > num_examples:
        raise WireError(f"metrics: counts of {name!r} add up to more than num-examples = {num_examples}.")
    if bins.count.any() and (bins.count.sum(), bins.correct.sum()) != (found.count.sum(), found.correct.sum()):
        raise WireError(f"metrics: counts of {name!r} are not of the same samples in classes and in bins.")
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    low, high = bins.count * edges[:-1] * (1 - 1e-6), bins.count * edges[1:] * (1 + 1e-6)
    if (bins.confidence < low).any() or (bins.confidence > high).any():
        raise WireError(f"metrics: confidences of {name!r} are not those of their bins.")


def sample_count(metrics: MetricRecord) -> int:
    """Return num-examples; raise WireError for anything but a number of samples."""
    count = metrics.get("num-examples")
    if not isinstance(count, int) or not 1 <= count <= MOST_SAMPLES:
        raise WireError(f"metrics: num-examples = {count!r}, need an integer from 1 (to {MOST_SAMPLES:.0e}).")
    return count


def seconds_taken(metrics: MetricRecord) -> float | None:
    """Return how long training took, None where the node does not say; raise WireError for anything but a time."""
    seconds = metrics.get("seconds")
    if seconds is None:
        return None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
        raise WireError(f"metrics: seconds = {seconds!r}, need a number from 0 (to {MOST_SECONDS:.0e}).")
    return float(seconds)


def examples_with(metrics: MetricRecord, prefix: str, num_examples: int) -> dict[Modality, int]:
    """Return how many samples have each modality that is named; raise WireError for a number that cannot be."""
    found: dict[Modality, int] = {}
    for name, count in numbers_below(metrics, prefix).items():
        if not isinstance(count, int) or not 0 <= count <= num_examples:
            raise WireError(
                f"metrics: {prefix}{name} = {count!r}, need an integer from 0 to num-examples = {num_examples}."
            )
        found[name] = count
    return found


def numbers(metrics: MetricRecord, key: str, length: int) -> NDArray[np.float64]:
    """Return a metric of one finite number a class or bin, [length]; raise WireError for anything else."""
    values: Any = metrics.get(key)
    if not isinstance(values, list) or len(values) != length or not all(abs(v) <= LARGEST_SUM for v in values):
        raise WireError(f"metrics: {key!r} must be {length} finite numbers, found {values!r}.")
    return np.array(values, dtype=np.float64)


def whole_numbers(metrics: MetricRecord, key: str, length: int) -> NDArray[np.int64]:
    """Return a metric of one number of samples a class or bin, [length]; raise WireError for anything else."""
    values: Any = metrics.get(key)
    if not isinstance(values, list) or len(values) != length or not all(isinstance(v, int) for v in values):
        raise WireError(f"metrics: {key!r} must be {length} finite whole numbers, found {values!r}.")
    if not all(abs(v) <= MOST_SAMPLES for v in values):
        raise WireError(f"metrics: {key!r} holds a number out of range ({MOST_SAMPLES:.0e}): {values!r}.")
    return np.array(values, dtype=np.int64)


def numbers_below(metrics: MetricRecord, prefix: str) -> dict[str, float]:
    """Return the single-number metrics whose keys start with ``prefix``, under the rest of their keys."""
    found = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
    check_names(found)
    lists = [key for key, value in found.items() if isinstance(value, list)]
    if lists:
        raise WireError(f"metrics: {prefix}{lists[0]} must be one number, found a list.")
    return {key: value for key, value in found.items() if not isinstance(value, list)}


def check_names(names: Iterable[str]) -> None:
    """Raise WireError for a node's name of something that would not look well in a table or a log."""
    for name in names:
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise WireError(f"metrics: {name!r} is no name: need 1 to {LONGEST_NAME} printable characters.")


def one_line(text: str) -> str:
    r"""Return a text of which parts come from another machine so that it neither breaks the log nor fills the disk.

    Parameters
    ----------
    text
        Any.

    Returns
    -------
    Printable characters, escapes for the others, at most LONGEST_LINE of them before escaping.

    Examples
    --------
    >>> print(one_line("error 2: first" + chr(10) + "second"))
    error 2: first\nsecond
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:LONGEST_LINE])
