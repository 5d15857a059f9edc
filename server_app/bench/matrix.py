"""The accuracy matrix over the seeds of a bench.

matrix.csv, a table in table.md and one on the page.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from server_app.bench.experiments import Experiment
from server_app.figures.markdown import markdown_table
from server_app.figures.statistics import interval_text
from server_app.run.matrix import BEFORE, read_matrix

MATRIX = "matrix.csv"
"""Beside results.csv."""
KEYS = ("setting", "method", "seed", "modalities", "rule")
NUMBERS = ("temperature", "accuracy", "macro", "worst_class", "calibration_error", "before")
"""Columns of matrix.csv after KEYS; ``before`` is the calibration error of the method's own
votes at temperature 1."""
COLUMNS = {
    "accuracy": "accuracy",
    "macro": "macro",
    "worst class": "worst_class",
    "ECE": "calibration_error",
}
"""Head of the table -> column of matrix.csv."""
CAPTION = (
    "The last round's models, or with `averaging` above 0 the moving averages of the global "
    "weights; each subset of the modalities decided as the model file says; in %, over the seeds "
    "± 95 % interval. ECE: expected calibration error, 15 bins"
)


def collect_matrices(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """Return one line per run and subset, with KEYS and NUMBERS.

    Parameters
    ----------
    experiments
        Finished runs; those of a version without matrix.json have no line.

    Returns
    -------
    The lines, in the order of the runs.
    """
    lines = []
    for experiment in experiments:
        for row in read_matrix(experiment.run_dir / "matrix.json"):
            figures = [row[name] for name in NUMBERS[:-1]]
            run = (experiment.setting, experiment.row, experiment.seed)
            lines.append(
                (
                    *run,
                    "+".join(row["modalities"]),
                    row["rule"],
                    *figures,
                    row["by_votes"][NUMBERS[4]],
                )
            )

    return pd.DataFrame(lines, columns=[*KEYS, *NUMBERS]).astype(dict.fromkeys(NUMBERS, float))


def read_matrices(out: Path) -> pd.DataFrame:
    """Return the lines of a bench's matrix.csv; none of a bench of a version that wrote none."""
    if not (out / MATRIX).is_file():
        return collect_matrices([])
    return pd.read_csv(out / MATRIX, dtype={"modalities": str, "method": str, "setting": str})


def caption(part: pd.DataFrame) -> str:
    """Return what :func:`subset_table` shows."""
    return f"{CAPTION}{'' if _as_voted(part) else BEFORE}."


def subset_table(part: pd.DataFrame, rows: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the cells of one setting's table, one line per row and subset.

    Parameters
    ----------
    part
        Lines of matrix.csv, of one setting.
    rows
        In the table's order.

    Returns
    -------
    Means with their intervals, errors before calibration only where some are others; and the
    rules, with the number of seeds that chose each.
    """
    columns = COLUMNS if _as_voted(part) else {**COLUMNS, "before": "before"}
    lines = []
    for row in rows:
        own = part[part["method"] == row]
        for subset in own["modalities"].unique():
            found = own[own["modalities"] == subset]
            figures = [
                interval_text((100 * found[column].dropna()).tolist(), ".1f")
                for column in columns.values()
            ]
            rules = [f"{rule} {count}" for rule, count in found["rule"].value_counts().items()]
            lines.append([row, str(subset), *figures, ", ".join(rules)])

    return ["method", "modalities", *columns, "decided by"], lines


def matrix_table(matrices: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Return a table in Markdown for each setting; nothing where no run has a matrix."""
    lines: list[str] = []
    for setting in matrices["setting"].unique():
        part = matrices[matrices["setting"] == setting]
        head, cells = subset_table(part, rows)
        lines += [f"### {setting}: accuracy matrix", "", caption(part), ""]
        lines += [*markdown_table(head, cells), ""]

    return lines


def _as_voted(part: pd.DataFrame) -> bool:
    """Whether nothing was calibrated: every confidence comes from the method's own votes."""
    return part["before"].equals(part["calibration_error"])
