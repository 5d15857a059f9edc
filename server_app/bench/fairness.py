"""The fairness columns of a bench's tables."""

from collections.abc import Sequence

import pandas as pd

from server_app.figures.fairness import FIGURES
from server_app.figures.statistics import MAIN, accuracy_cell, by_seed
from server_app.run.records import LAST_ROUNDS


def fairness_caption(baseline: str) -> str:
    """Return what the columns are."""
    return (
        f"Of {MAIN}, each class's and node's mean of the last {LAST_ROUNDS} rounds, in % and "
        f"points, over the seeds ± 95 % interval; in brackets points over {baseline} with the "
        "same seeds. Spread: standard deviation."
    )


def fairness_cells(
    part: pd.DataFrame, rows: Sequence[str], baseline: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the columns that any row has a number in, and the cells of every row.

    Parameters
    ----------
    part
        Lines of results.csv, of one setting.
    rows
        In the table's order.
    baseline
        The row that differences are taken to.

    Returns
    -------
    Names of the columns; row -> its cells.
    """
    values = {
        column: by_seed(part, MAIN, column).dropna(axis="columns", how="all") for column in FIGURES
    }
    shown = [column for column in FIGURES if not values[column].empty]
    cells = {
        row: [accuracy_cell(values[column], row, baseline) for column in shown] for row in rows
    }

    return [FIGURES[column] for column in shown], cells
