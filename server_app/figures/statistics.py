"""The figures of runs and of seeds that tables and pages share.

Means, intervals, curves, targets and bytes.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
"""Of every interval over seeds."""
MAIN = "fused"
"""The prediction that targets and best rounds are about."""

Records = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % confidence interval (Student's t).

    Parameters
    ----------
    values
        One figure per seed.

    Returns
    -------
    Mean and half-width; NaN for both without values, and for the half-width of one value.

    Examples
    --------
    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    count = len(values)
    if count < 2:
        return float(values[0]) if count else float("nan"), float("nan")

    # Of Student's t; scipy.stats takes long to import
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))

    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / count**0.5


def interval_text(values: Sequence[float], form: str) -> str:
    """Return mean ± half-width; a dash without values, and no half-width for one value.

    Parameters
    ----------
    values
        One figure per seed.
    form
        How to write the mean: ".1f", "+.1f", ...

    Returns
    -------
    Plain text.
    """
    if not values:
        return "-"

    mean, half = mean_and_interval(values)
    return f"{mean:{form}}" if np.isnan(half) else f"{mean:{form}} ± {half:{form.lstrip('+')}}"


def by_seed(part: "pd.DataFrame", prediction: str, figure: str = "accuracy") -> "pd.DataFrame":
    """Return accuracies in %, or another figure of theirs, one line per seed and one column per
    row.

    Parameters
    ----------
    part
        Lines of results.csv, of one setting.
    prediction
        Of which.
    figure
        Column of results.csv.

    Returns
    -------
    [seeds, rows]; NaN where a row has no run of that seed, or no sample could be predicted.
    """
    return (
        part[part["prediction"] == prediction].pivot(index="seed", columns="method", values=figure)
        * 100
    )


def row_interval(accuracies: "pd.DataFrame", row: str) -> tuple[float, float]:
    """Return :func:`mean_and_interval` of a row of :func:`by_seed`.

    NaN for both where it has no number.
    """
    return mean_and_interval(accuracies[row].dropna().tolist() if row in accuracies else [])


def difference_text(accuracies: "pd.DataFrame", row: str, other: str) -> str:
    """Return the mean difference of two rows of :func:`by_seed` in points, over the seeds that both
    have.
    """
    return interval_text((accuracies[row] - accuracies[other]).dropna().tolist(), "+.1f")


def accuracy_cell(accuracies: "pd.DataFrame", row: str, baseline: str) -> str:
    """Return a row's accuracy and, in brackets, its difference to the baseline.

    Parameters
    ----------
    accuracies
        From :func:`by_seed`.
    row
        Whose cell.
    baseline
        Its own cell, and that of all rows where it has no run, has no brackets.

    Returns
    -------
    Plain text; a dash where the row has no such prediction.
    """
    if row not in accuracies:
        return "-"

    cell = interval_text(accuracies[row].dropna().tolist(), ".1f")
    if row == baseline or baseline not in accuracies:
        return cell

    return f"{cell} ({difference_text(accuracies, row, baseline)})"


def seeds_of_rows(part: "pd.DataFrame") -> dict[str, set[int]]:
    """Return the seeds that are finished of every row of a setting."""
    return {str(row): set(lines["seed"]) for row, lines in part.groupby("method")}


def seeds_text(count: int) -> str:
    """Return "1 seed", "2 seeds", ..."""
    return f"{count} seed{'s' if count != 1 else ''}"


def over_rounds(records: Records, prediction: str) -> Floats:
    """Return the accuracy of each round in [0, 1], [rounds].

    NaN where no sample could be predicted.
    """
    return np.array([record["accuracy"][prediction] for record in records], dtype=np.float64)


def class_accuracy(records: Records, prediction: str) -> Floats:
    """Return the accuracy in % of each class in each round, [classes, rounds].

    NaN without samples.
    """
    correct, count = (
        np.array([record["counts"][prediction][key] for record in records], dtype=float).T
        for key in ("correct", "count")
    )
    found: Floats = np.divide(correct, count, out=np.full_like(correct, np.nan), where=count > 0)
    return 100 * found


def mean_curve(seeds: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return the mean over seeds of each round, and the half-width of its interval.

    Parameters
    ----------
    seeds
        One curve per seed, each [rounds]; the shortest ends the mean.

    Returns
    -------
    Mean and half-width, each [rounds].
    """
    pairs = [mean_and_interval(values) for values in zip(*seeds, strict=False)]
    mean, half = np.array(pairs, dtype=np.float64).T
    return mean, half


def cumulative_megabytes(records: Records) -> Floats:
    """Return, for each round, the MB (10^6 bytes) sent to and received from the nodes until its
    end.
    """
    sent = [
        sum(chain(record["bytes_down"].values(), record["bytes_up"].values())) for record in records
    ]
    total: Floats = np.cumsum(sent, dtype=float) / 1e6
    return total


def best_round(records: Records, prediction: str) -> tuple[float, int]:
    """Return the highest accuracy of any round in [0, 1], and the first round that has it.

    NaN without samples.
    """
    values = over_rounds(records, prediction)
    first = int(np.argmax(np.where(np.isnan(values), -1, values)))
    return float(values[first]), int(records[first]["round"])


def to_target(records: Records, target: float) -> tuple[float, float]:
    """Return the first round whose fused accuracy reaches the target, and the megabytes moved until
    then; else NaN.

    Parameters
    ----------
    records
        The rounds of a run.
    target
        In [0, 1].

    Returns
    -------
    Round and megabytes (10^6 bytes), down and up together.

    Examples
    --------
    >>> moved = {"bytes_down": {"7": 10**6}, "bytes_up": {}}
    >>> rounds = [{"round": t, "accuracy": {"fused": t / 4}, **moved} for t in (1, 2)]
    >>> to_target(rounds, 0.5)
    (2.0, 2.0)
    """
    reached = np.flatnonzero(over_rounds(records, MAIN) >= target)
    if not reached.size:
        return float("nan"), float("nan")

    return float(records[reached[0]]["round"]), float(cumulative_megabytes(records)[reached[0]])
