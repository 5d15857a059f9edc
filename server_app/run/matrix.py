"""The accuracy matrix of a finished run.

Every subset of the modalities, decided as its model file says.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.evaluation.decision import Decisions, Subset
from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.figures.markdown import markdown_table
from server_app.run.records import json_ready, percent

EXPLANATION = (
    "The last round's model; with `averaging` above 0, the moving average of the global weights. "
    "ECE: expected calibration error, 15 bins{before}. A subset counts the samples that have all "
    "of it."
)
BEFORE = "; before: that of the method's own votes at temperature 1"
NOT_CALIBRATED = "; no confidence is calibrated, since there was no validation data"

MatrixRow = Mapping[str, Any]


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
                "by_votes": {
                    "accuracy": before.accuracy,
                    "calibration_error": before.calibration_error,
                },
            }
        )

    return [json_ready(row) for row in rows]


def write_matrix(path: Path, rows: Sequence[MatrixRow]) -> None:
    """Write matrix.json, whole or not at all."""
    write_atomically(path, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def read_matrix(path: Path) -> list[MatrixRow]:
    """Return the rows of matrix.json.

    None of a run that failed, or that an earlier version made.
    """
    rows: list[MatrixRow] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def explanation(rows: Sequence[MatrixRow]) -> str:
    """Return the explanation of :func:`matrix_table`."""
    return EXPLANATION.format(before=BEFORE if _calibrated(rows) else NOT_CALIBRATED)


def matrix_table(rows: Sequence[MatrixRow]) -> tuple[list[str], list[list[str]]]:
    """Return the matrix's head and cells.

    Temperatures and errors before calibration only where there was one.
    """
    columns: dict[str, list[str]] = {
        "modalities": ["+".join(row["modalities"]) for row in rows],
        "decided by": [str(row["rule"]) for row in rows],
    }
    if _calibrated(rows):
        columns["temperature"] = [
            f"{row['temperature']:.2f}" if row["calibrated"] else "none" for row in rows
        ]

    for name, key in (("accuracy", "accuracy"), ("macro", "macro"), ("worst class", "worst_class")):
        columns[name] = [percent(row[key]) for row in rows]

    columns["ECE"] = [percent(row["calibration_error"]) for row in rows]
    if _calibrated(rows):
        columns["before"] = [percent(row["by_votes"]["calibration_error"]) for row in rows]

    columns["samples"] = [str(sum(row["count"])) for row in rows]

    return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]


def matrix_lines(rows: Sequence[MatrixRow]) -> list[str]:
    """Return the matrix as a table in Markdown, with what it shows above it."""
    return [explanation(rows), "", *markdown_table(*matrix_table(rows))]


def _calibrated(rows: Sequence[MatrixRow]) -> bool:
    return any(row["calibrated"] for row in rows)
