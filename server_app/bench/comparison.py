"""How the rows of a bench are compared, as comparison.json keeps it, and the sentences below a
setting's table.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from fedcmi_flwr.evaluation.counts import is_head
from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.figures.statistics import MAIN, by_seed, difference_text, seeds_of_rows
from server_app.run.reader import ReportError
from server_app.run.records import json_ready

OWN = "fedcmi-plus"
"""The row that is compared with the best other row, and the method of the rows that are
variations of it."""
RECORD = "comparison.json"
"""Beside results.csv."""


@dataclass(frozen=True)
class Comparison:
    """How the rows of a table are compared."""

    rows: Sequence[str]
    """In the table's order."""
    baseline: str
    """The row that differences are taken to, over the same seeds."""
    targets: Mapping[str, float]
    """Setting -> fused accuracy in [0, 1] whose first round is looked for; NaN: none."""
    own: Collection[str] = (OWN,)
    """OWN and its variations: the rows that it is not compared with."""

    def write(self, out: Path) -> None:
        """Write comparison.json; NaN is null there."""
        record = json_ready(asdict(self) | {"own": sorted(self.own)})
        write_atomically(out / RECORD, json.dumps(record, indent=1) + "\n")


def read_comparison(out: Path) -> Comparison:
    """Read comparison.json.

    Parameters
    ----------
    out
        A bench directory.

    Returns
    -------
    What :meth:`Comparison.write` wrote.

    Raises
    ------
    ReportError
        It is missing, or something else.
    """
    path = out / RECORD
    again = "call `fedcmi bench` as before: it keeps what is finished and writes the file"
    if not path.is_file():
        raise ReportError(f"{path}: no such file; {again}.")

    try:
        found = Comparison(**json.loads(path.read_text(encoding="utf-8")))
        targets = {
            name: float("nan") if target is None else target
            for name, target in found.targets.items()
        }
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: not written by this version ({error!r}); {again}.") from error

    return Comparison(found.rows, found.baseline, targets, found.own)


def shown_predictions(results: pd.DataFrame) -> list[str]:
    """Return the predictions of lines of results.csv without those of the self heads, in their
    order.
    """
    return [str(name) for name in results["prediction"].unique() if not is_head(name)]


def sentences(part: pd.DataFrame, comparison: Comparison) -> list[str]:
    """Return what stands below the table of a setting: the best other row, and refused replies.

    Parameters
    ----------
    part
        Lines of results.csv, of one setting.
    comparison
        Of the bench.

    Returns
    -------
    As many sentences as there is something to say.
    """
    found = (best_other(part, comparison), refused_replies(part, comparison.rows))
    return [sentence for sentence in found if sentence]


def best_other(part: pd.DataFrame, comparison: Comparison) -> str:
    """Return a sentence that compares OWN with the best other row of each prediction.

    Empty if there is no other.

    A row takes part if it has every seed that OWN has: one whose hard seeds failed would win by
    the easy ones.

    Parameters
    ----------
    part
        Lines of results.csv, of one setting.
    comparison
        Of the bench.

    Returns
    -------
    Paired differences in points, with their intervals, and the rows that are left out.
    """
    seeds = seeds_of_rows(part)
    if OWN not in seeds:
        return ""

    others = [row for row in comparison.rows if row not in {OWN, *comparison.own}]
    whole = [row for row in others if seeds.get(row, set()) >= seeds[OWN]]
    found = [
        text
        for name in shown_predictions(part)
        for text in _against_best(by_seed(part, name), whole, name)
    ]
    partial = [row for row in others if row not in whole]
    left_out = f" Left out, since seeds of it are missing: {', '.join(partial)}." if partial else ""
    if not found:
        return left_out.strip()

    return f"{OWN} against the best other row: {', '.join(found)}.{left_out}"


def _against_best(accuracies: pd.DataFrame, rows: Sequence[str], prediction: str) -> list[str]:
    """Return how OWN does against the best of some rows over its seeds.

    Nothing where one side has no number.
    """
    if OWN not in accuracies:
        return []

    same_seeds = accuracies[accuracies[OWN].notna()]
    means = (
        same_seeds[[row for row in rows if row in accuracies]]
        .dropna(axis="columns")
        .mean()
        .dropna()
    )
    if means.empty:
        return []

    best = str(means.idxmax())

    return [f"{prediction} {difference_text(same_seeds, OWN, best)} points ({best})"]


def refused_replies(part: pd.DataFrame, rows: Sequence[str]) -> str:
    """Return a sentence that names the rows some of whose replies were refused or missing.

    Empty if there is none.

    Parameters
    ----------
    part
        Lines of results.csv, of one setting.
    rows
        In the order to name them.

    Returns
    -------
    How many replies, and in how many runs.
    """
    of_runs = part[part["prediction"] == MAIN].groupby("method")["refused"]
    found = []
    for row in (row for row in rows if row in of_runs.groups):
        counts = of_runs.get_group(row)
        if counts.sum():
            found.append(
                f"{row} {int(counts.sum())} in {int((counts > 0).sum())} of {len(counts)} runs"
            )

    return f"Replies refused or missing: {', '.join(found)}." if found else ""
