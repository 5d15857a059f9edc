"""The figures of fairness, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from server_app.bench.fairness import fairness_cells
from server_app.bench.table import COLUMNS
from server_app.figures import fairness
from server_app.pages.fairness import fairness_section
from server_app.run.reader import RunFiles
from server_app.run.records import round_record

OWNED = {"0": ["a", "b", "c"], "1": ["a"], "10": ["a", "b"], "2": ["b"]}


def _node(fused: int, **others: int) -> dict[str, Counts]:
    """Return so many right of 10 (8 of class 0), class by class."""
    names = {"fused": fused, **{name.replace("_", " "): value for name, value in others.items()}}
    return {name: Counts(np.array([right, 0]), np.array([8, 2])) for name, right in names.items()}


def _record(
    classes: tuple[int, int], nodes: dict[int, dict[str, Counts]], number: int = 1
) -> dict[str, Any]:
    report = RoundReport(RoundPlan(number), evaluated_by=nodes)
    record = round_record(number, {"fused": Counts(np.array(classes), np.array([10, 20]))}, report)
    return record | {"known_nodes": OWNED}


FIRST = {
    0: _node(4, personal_fused=6),
    10: _node(8, personal_fused=7, a_only=2, b_only=5),
    2: _node(2),
}
SECOND = {0: _node(6, personal_fused=8), 1: _node(7, personal_fused=7)}
RECORDS = [_record((6, 4), FIRST), _record((8, 4), SECOND, 2)]
"""Two rounds; node 1 evaluates in the second alone, nodes 10 and 2 in the first."""


def test_nodes_have_the_mean_of_the_rounds_in_which_they_evaluated() -> None:
    assert fairness.per_node(RECORDS, "fused") == pytest.approx(
        {"0": 0.5, "1": 0.7, "2": 0.2, "10": 0.8}
    )
    assert list(fairness.per_node(RECORDS, "fused")) == ["0", "1", "2", "10"]
    assert fairness.per_node(RECORDS, "personal fused") == pytest.approx(
        {"0": 0.7, "1": 0.7, "10": 0.7}
    )
    assert fairness.per_node(RECORDS, "fused", "samples") == {"0": 10, "1": 10, "2": 10, "10": 10}
    assert fairness.per_node(RECORDS, "fused", "worst_class") == {"0": 0, "1": 0, "2": 0, "10": 0}
    # Of a version that did not note it
    assert fairness.per_node([{"evaluated": {}}], "fused") == {}


def test_figures_by_hand() -> None:
    """Classes: 0.7 and 0.2, each 0.25 from their mean.

    Nodes: 0.5, 0.7, 0.2, 0.8: mean 0.55, variance 0.0525.

    Own heads give node 0 20 points, node 1 none, and cost node 10 ten; node 2 has none.
    """
    found = fairness.figures(RECORDS, "fused")
    expected = (0.2, 0.25, 0.55, 0.2, 0.0525**0.5, 0.1 / 3, 1 / 3, -0.1)
    assert found == pytest.approx(dict(zip(fairness.FIGURES, expected, strict=True)))


def test_without_nodes_there_are_figures_of_classes_alone() -> None:
    found = fairness.figures([_record((6, 4), {})], "fused")
    assert (found["worst_class"], found["class_spread"]) == pytest.approx((0.2, 0.2))
    assert all(np.isnan(found[name]) for name in list(fairness.FIGURES)[2:])


@pytest.mark.parametrize(
    ("modality", "expected"), [("a", {"10": 0.3}), ("b", {"10": 0.6}), ("c", {})]
)
def test_what_a_modality_gives_is_what_is_lost_without_it(
    modality: str, expected: dict[str, float]
) -> None:
    """Node 10 has 0.8 with both, 0.5 with b and 0.2 with a.

    Nodes 1 and 2 own one, and node 0 counted no pairs.
    """
    assert fairness.ablation_gain(RECORDS, modality, OWNED) == pytest.approx(expected)


def test_of_three_modalities_the_other_two_are_left() -> None:
    nodes = {0: {**_node(6), "b+c only": Counts(np.array([1, 0]), np.array([8, 2]))}}
    assert fairness.ablation_gain([_record((1, 1), nodes)], "a", OWNED) == pytest.approx({"0": 0.5})


def test_each_prediction_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50 nodes with both modalities: the main prediction, and that without the modality."""
    asked = []
    per_node = fairness.per_node

    def noted(records: fairness.Records, prediction: str) -> dict[str, float]:
        asked.append(prediction)
        return per_node(records, prediction)

    monkeypatch.setattr(fairness, "per_node", noted)
    owned = {str(node): ["a", "b"] for node in range(50)}
    assert fairness.ablation_gain(RECORDS, "a", owned) == pytest.approx({"10": 0.3})
    assert sorted(asked) == ["b only", "fused"]


def test_sentences_by_hand() -> None:
    """10th percentile of 0.2, 0.5, 0.7, 0.8: 0.2 + 0.3 * 0.3.

    Of 20, 0, -10 points: 3.3 +- 4.303 * 15.28 / 3^0.5.
    """
    assert fairness.sentences(RECORDS, ["low", "high"]) == [
        "worst class: high with 20.0%; standard deviation 25.0 points over classes",
        "on 4 nodes' test samples: mean 55.0%, 10th percentile 29.0%, worst 20.0% (node 2); "
        "standard deviation 22.9 points over nodes",
        "mean by what nodes own (and how many do): a 70.0% (1), a+b 80.0% (1), a+b+c 50.0% (1), "
        "b 20.0% (1)",
        "heads of the node's own give +3.3 ± 37.9 points (95 % interval over nodes); 1 of 3 "
        "nodes profit, the least node 10 with -10.0",
    ]
    assert len(fairness.sentences([_record((6, 4), {})], ["low", "high"])) == 1
    blind = _record((0, 0), {})
    blind["counts"]["fused"]["count"] = [0, 0]
    assert fairness.sentences([blind], ["low", "high"]) == []


def test_cells_of_a_bench_are_paired_and_empty_columns_left_out() -> None:
    """Of worst classes 0.1, 0.3 and 0.2, 0.4 the difference is 10 points in both seeds.

    Nobody evaluated.
    """
    lines = [
        {
            **dict.fromkeys(COLUMNS, np.nan),
            "method": row,
            "seed": seed,
            "prediction": "fused",
            "worst_class": value,
        }
        for row, values in (("fedavg", (0.1, 0.3)), ("fedcmi", (0.2, 0.4)))
        for seed, value in enumerate(values)
    ]
    names, cells = fairness_cells(pd.DataFrame(lines), ["fedavg", "fedcmi", "late"], "fedavg")
    assert names == ["worst class"]
    assert cells == {
        "fedavg": ["20.0 ± 127.1"],
        "fedcmi": ["30.0 ± 127.1 (+10.0 ± 0.0)"],
        "late": ["-"],
    }


def test_the_section_has_classes_nodes_and_what_modalities_give() -> None:
    measured = {"dominant": "a", "ratio": {"b": [2.0, None]}, "temperature": {"b": [0.5, 1.0]}}
    config = {"dataset": {"classes": ["low", "<high>"], "modalities": ["a", "b", "c"]}}
    records = [
        RECORDS[0] | {"measured": measured},
        RECORDS[1] | {"measured": measured | {"ratio": {"b": [3.0, None]}}},
    ]
    text = "".join(fairness_section(RunFiles(Path(), config, records, "")))
    assert '<th scope="row">low</th><td>10</td><td>70.0%</td><td>2.50</td><td>0.50</td>' in text
    assert (
        "&lt;high&gt;</th><td>20</td><td><strong>20.0%</strong></td><td>-</td><td>1.00</td>" in text
    )
    assert (
        "<th "
        'scope="row">10</th><td>a+b</td><td>10</td><td>80.0%</td><td>0.0%</td><td>70.0%</td><td>-10.0</td>'
        in text
    )
    assert '<th scope="row">2</th><td>b</td><td>10</td><td><strong>20.0%</strong></td>' in text
    assert '<th scope="row">10</th><td>80.0%</td><td>+30.0</td><td>+60.0</td><td>-</td>' in text
    assert text.count("<figure ") == 2


def test_the_section_of_a_run_without_nodes_says_so() -> None:
    config = {"dataset": {"classes": ["low", "high"], "modalities": ["a"]}}
    text = "".join(fairness_section(RunFiles(Path(), config, [_record((6, 4), {})], "")))
    assert "No node evaluated on its own test samples" in text
    assert 'data-chart="fairness-nodes"' not in text
