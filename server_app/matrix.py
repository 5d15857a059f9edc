"""The accuracy matrix of a finished run: every subset of the modalities, decided as its model file says."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcmi_flwr.atomic_files import write_atomically
from fedcmi_flwr.decision import Decisions, Subset
from fedcmi_flwr.evaluate import Counts
from server_app.report import json_ready, percent

COLUMNS = ("decided by", "temperature", "accuracy", "macro", "worst class", "calibration error", "before", "samples")
"""Of the table; the first column names the subset."""
EXPLANATION = (
    "The last round's model; with `averaging` above 0, the moving average of the global weights. Calibration error: "
    "expected, 15 bins; before: that of the method's own votes at temperature 1. A subset "
    "counts the samples that have all of it."
)

Row = Mapping[str, Any]


def matrix_rows(
    decided: Mapping[Subset, Counts], by_votes: Mapping[Subset, Counts], decisions: Decisions
) -> list[dict[str, Any]]:
    """Return the rows of the matrix as JSON holds them.

    Parameters
    ----------
    decided
        What was counted of each subset by its decision.
    by_votes
        What was counted by the method's own votes at temperature 1.
    decisions
        How each subset decides.

    Returns
    -------
    One row a subset, smaller ones first.
    """
    rows = []
    for subset, found in decided.items():
        decision, before = decisions.of(subset), by_votes[subset]
        rows.append(
            {
                "modalities": list(subset),
                "rule": decision.rule,
                "temperature": decision.temperature,
                "calibrated": decision.calibrated,
                "accuracy": found.accuracy,
                "macro": found.macro,
                "worst_class": found.worst_class,
                "calibration_error": found.calibration_error,
                "correct": found.correct.tolist(),
                "count": found.count.tolist(),
                "by_votes": {"accuracy": before.accuracy, "calibration_error": before.calibration_error},
            }
        )
    return [json_ready(row) for row in rows]


def write_matrix(path: Path, rows: Sequence[Row]) -> None:
    """Write matrix.json, whole or not at all."""
    write_atomically(path, (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode())


def read_matrix(path: Path) -> list[Row]:
    """Return the rows of matrix.json; none of a run that failed, or that an earlier version made."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def cells(row: Row) -> list[str]:
    """Return a row's cells: the subset, then COLUMNS."""
    temperature = f"{row['temperature']:.2f}" if row["calibrated"] else "not calibrated"
    figures = [percent(row[key]) for key in ("accuracy", "macro", "worst_class", "calibration_error")]
    before = percent(row["by_votes"]["calibration_error"])
    return ["+".join(row["modalities"]), str(row["rule"]), temperature, *figures, before, str(sum(row["count"]))]


def matrix_lines(rows: Sequence[Row]) -> list[str]:
    """Return the matrix as a table in Markdown, with what it shows above it."""
    head = [EXPLANATION, "", f"| modalities | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    return [*head, *[f"| {' | '.join(cells(row))} |" for row in rows]]
