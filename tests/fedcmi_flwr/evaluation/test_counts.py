"""Sums, counts and figures: against the oracle's loop and by hand."""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.evaluation.calibration import Bins
from fedcmi_flwr.evaluation.counts import Counts, accuracy_matrix, evaluate, measure, summarise
from fedcmi_flwr.evaluation.decision import Decision, Decisions, subsets, uncalibrated
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, Votes

THREE = ("audio", "visual", "touch")
PRESENT = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_class_statistics_are_the_oracles() -> None:
    model = oracle.model(THREE).train()
    batches = [
        oracle.batch(PRESENT, range(3), seed=0),
        oracle.batch(PRESENT[::-1], range(3), seed=1),
    ]
    stats = measure(model, batches).stats
    assert model.training
    for column, name in enumerate(THREE):
        total, count = np.zeros(3), np.zeros(3, dtype=np.int64)
        for batch in batches:
            logits = model.eval().branch(name).self_logits(batch.inputs[name]).detach().numpy()
            part = oracle.class_statistics(
                logits, batch.labels.numpy(), batch.present[:, column].numpy()
            )
            total, count = total + part[0], count + part[1]
        assert stats.probability_sum[name] == pytest.approx(total)
        assert stats.count[name].tolist() == count.tolist()
        assert stats.count[name].dtype == np.int64


def test_statistics_leave_the_model_as_it_was() -> None:
    model = oracle.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, [oracle.batch([[1, 1]] * 4)])
    evaluate(model, [oracle.batch([[1, 1]] * 4)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(w.grad is None for w in model.parameters())


def test_statistics_of_an_owned_subset_only() -> None:
    stats = measure(
        oracle.model(THREE, owned=("touch",)), [oracle.batch([[0, 0, 1]] * 4, (2,))]
    ).stats
    assert {name: count.tolist() for name, count in stats.count.items()} == {"touch": [2, 1, 1]}


def _ways(model: MultimodalModel, batch: Batch, i: int) -> Iterator[tuple[str, int]]:
    """Yield every way to predict sample i that its modalities allow, and what it predicts."""
    has, two = batch.present[i].numpy(), model.spec.structure == "two-projectors"
    u, q = np.zeros((1, 3, 4)), np.zeros((1, 3, 4))
    for m in np.flatnonzero(has):
        branch, x = model.branch(THREE[m]), batch.inputs[THREE[m]][i : i + 1]
        z = branch.encoder(x)
        u[0, m] = (branch.self_projector(z) if two else z).detach().numpy()
        if two:
            q[0, m] = branch.infiltration_projector(z).detach().numpy()
            yield f"{THREE[m]} head", int(branch.self_logits(x).argmax())
    asked = [chosen for size in (1, 2) for chosen in combinations(np.flatnonzero(has), size)]
    masks = {
        f"{'+'.join(THREE[m] for m in chosen)} only": np.isin(range(3), chosen) for chosen in asked
    }
    masks["fused"] = has
    for name, mask in masks.items() if has.any() else ():
        yield name, int(model.fusion(torch.from_numpy(oracle.fill(u, q, mask[None]))).argmax())


@pytest.mark.parametrize("structure", ["two-projectors", "fusion"])
def test_every_way_to_predict_is_counted_against_a_loop(structure: str) -> None:
    """Modalities predict from their u, and their q in the other slots.

    Samples that lack one of them do not count.
    """
    model = oracle.model(THREE, structure=structure).eval()
    batches = [
        oracle.batch(PRESENT, range(3), seed=0),
        oracle.batch(PRESENT[::-1], range(3), seed=1),
    ]
    expected: dict[str, tuple[list[int], list[int]]] = {}
    for batch in batches:
        for i, label in enumerate(batch.labels.tolist()):
            for name, guess in _ways(model, batch, i):
                correct, count = expected.setdefault(name, ([0, 0, 0], [0, 0, 0]))
                correct[label] += guess == label
                count[label] += 1
    found = {
        name: (c.correct.tolist(), c.count.tolist()) for name, c in evaluate(model, batches).items()
    }
    assert found == expected
    assert sum(found["fused"][1]) == 12
    assert sum(found["touch only"][1]) == 6
    assert sum(found["visual+touch only"][1]) == 4


def test_calibration_error_of_a_prediction_is_that_of_its_own_probabilities() -> None:
    """Over the samples that count for it, each once: bins add up over batches."""
    model = oracle.model(THREE).eval()
    batches = [oracle.batch(PRESENT, range(3), seed=seed) for seed in range(2)]
    found = evaluate(model, batches)
    chances = torch.cat(
        [model(batch).self_logits["touch"][batch.present[:, 2]].softmax(dim=1) for batch in batches]
    )
    labels = torch.cat([batch.labels[batch.present[:, 2]] for batch in batches])
    expected = Bins.of(chances.detach().log(), labels)
    assert found["touch head"].calibration_error == pytest.approx(expected.expected_error)
    assert all(counts.bins.count.sum() == counts.count.sum() for counts in found.values())
    assert all(counts.bins.correct.sum() == counts.correct.sum() for counts in found.values())


def test_the_accuracy_matrix_follows_each_subsets_decision() -> None:
    """Audio by its self head at temperature 1/2, all others by the fusion head.

    Against a loop over samples.
    """
    model, batch = oracle.model(THREE).eval(), oracle.batch(PRESENT * 3, range(3))
    by_head = Decision(Votes(self_heads=1.0, fusion=0.0), 0.5, calibrated=True)
    decisions = Decisions(THREE, uncalibrated(Votes()), {("audio",): by_head})
    found = accuracy_matrix(model, [batch], decisions)
    ways = [dict(_ways(model, batch, i)) for i in range(len(batch.labels))]
    names = {
        ("audio",): "audio head",
        ("visual",): "visual only",
        ("visual", "touch"): "visual+touch only",
    }
    for subset, name in names.items():
        rows = [i for i, way in enumerate(ways) if name in way]
        right = [i for i in rows if ways[i][name] == int(batch.labels[i])]
        assert (found[subset].count.sum(), found[subset].correct.sum()) == (len(rows), len(right))
    assert list(found) == subsets(THREE)
    assert found[THREE].count.sum() == 3 * PRESENT.count([1, 1, 1])
    audio = batch.present[:, 0]
    sharper = (2 * model(batch).self_logits["audio"][audio]).log_softmax(dim=1).detach()
    expected = Bins.of(sharper, batch.labels[audio]).expected_error
    assert found["audio",].calibration_error == pytest.approx(expected)


def test_figures_by_hand() -> None:
    """1 of 4, 2 of 2, none, 0 of 2: 3 of 8 right; classes 1/4, 1, -, 0.

    Their mean is 5/12, the worst is 0.
    """
    counts = Counts(np.array([1, 2, 0, 0]), np.array([4, 2, 0, 2]))
    assert counts.accuracy == pytest.approx(3 / 8)
    assert counts.per_class == pytest.approx([0.25, 1.0, math.nan, 0.0], nan_ok=True)
    assert counts.macro == pytest.approx(5 / 12)
    assert counts.worst_class == 0.0
    total = counts + Counts(np.array([1, 0, 1, 1]), np.array([1, 1, 1, 1]))
    assert (total.correct.tolist(), total.count.tolist()) == ([2, 2, 1, 1], [5, 3, 1, 3])
    assert counts.correct.tolist() == [1, 2, 0, 0]


def test_figures_without_samples_are_nan() -> None:
    empty = Counts(np.zeros(3, np.int64), np.zeros(3, np.int64))
    assert all(
        math.isnan(figure)
        for figure in (empty.accuracy, empty.macro, empty.worst_class, *empty.per_class)
    )


def test_summary_takes_the_figure_of_each() -> None:
    counts = {
        "fused": Counts(np.array([1, 1]), np.array([1, 3])),
        "audio only": Counts(np.array([0, 1]), np.array([1, 1])),
    }
    assert summarise(counts, lambda found: found.accuracy) == {"fused": 0.5, "audio only": 0.5}
    assert summarise(counts, lambda found: found.macro) == pytest.approx(
        {"fused": 2 / 3, "audio only": 0.5}
    )
