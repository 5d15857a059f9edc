"""Figures of records, by hand."""

import numpy as np

from server_app.figures.statistics import class_accuracy, cumulative_megabytes


def test_figures_of_the_curves_by_hand() -> None:
    """3 of 4 right are 75 %; no sample is no accuracy; 1 MB down and 0.5 MB up, twice."""
    counts = {"fused": {"correct": [3, 0], "count": [4, 0]}}
    record = {
        "counts": counts,
        "bytes_down": {"0": 600_000, "1": 400_000},
        "bytes_up": {"1": 500_000},
    }
    np.testing.assert_equal(class_accuracy([record, record], "fused"), [[75, 75], [np.nan, np.nan]])
    assert cumulative_megabytes([record, record]).tolist() == [1.5, 3.0]
