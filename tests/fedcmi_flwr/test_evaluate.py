"""Sums, counts and figures: against the oracle's loop and by hand."""

import math
from collections.abc import Iterator

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.evaluate import Counts, evaluate, measure, summarise
from fedcmi_flwr.model import MultimodalModel
from fedcmi_flwr.types import Batch

THREE = ("audio", "visual", "touch")
PRESENT = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_class_statistics_are_the_oracles() -> None:
    model = oracle.model(THREE).train()
    batches = [oracle.batch(PRESENT, range(3), seed=0), oracle.batch(PRESENT[::-1], range(3), seed=1)]
    stats = measure(model, batches).stats
    assert model.training
    for column, name in enumerate(THREE):
        total, count = np.zeros(3), np.zeros(3, dtype=np.int64)
        for batch in batches:
            logits = model.eval().branch(name).self_logits(batch.inputs[name]).detach().numpy()
            part = oracle.class_statistics(logits, batch.labels.numpy(), batch.present[:, column].numpy())
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
    stats = measure(oracle.model(THREE, owned=("touch",)), [oracle.batch([[0, 0, 1]] * 4, (2,))]).stats
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
    masks = {"fused": has, **{f"{THREE[m]} only": np.arange(3) == m for m in np.flatnonzero(has)}}
    for name, mask in masks.items() if has.any() else ():
        yield name, int(model.fusion(torch.from_numpy(oracle.fill(u, q, mask[None]))).argmax())


@pytest.mark.parametrize("structure", ["two-projectors", "fusion"])
def test_every_way_to_predict_is_counted_against_a_loop(structure: str) -> None:
    """A modality alone predicts from its own u and its q in the other slots; absent samples do not count for it."""
    model = oracle.model(THREE, structure=structure).eval()
    batches = [oracle.batch(PRESENT, range(3), seed=0), oracle.batch(PRESENT[::-1], range(3), seed=1)]
    expected: dict[str, tuple[list[int], list[int]]] = {}
    for batch in batches:
        for i, label in enumerate(batch.labels.tolist()):
            for name, guess in _ways(model, batch, i):
                correct, count = expected.setdefault(name, ([0, 0, 0], [0, 0, 0]))
                correct[label] += guess == label
                count[label] += 1
    found = {name: (c.correct.tolist(), c.count.tolist()) for name, c in evaluate(model, batches).items()}
    assert found == expected
    assert sum(found["fused"][1]) == 12
    assert sum(found["touch only"][1]) == 6


def test_figures_by_hand() -> None:
    """1 of 4, 2 of 2, none, 0 of 2: 3 of 8 right; classes 1/4, 1, -, 0; their mean is 5/12, the worst is 0."""
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
    assert all(math.isnan(figure) for figure in (empty.accuracy, empty.macro, empty.worst_class, *empty.per_class))


def test_summary_takes_the_figure_of_each() -> None:
    counts = {
        "fused": Counts(np.array([1, 1]), np.array([1, 3])),
        "audio only": Counts(np.array([0, 1]), np.array([1, 1])),
    }
    assert summarise(counts, lambda found: found.accuracy) == {"fused": 0.5, "audio only": 0.5}
    assert summarise(counts, lambda found: found.macro) == pytest.approx({"fused": 2 / 3, "audio only": 0.5})
