"""The equations against the NumPy oracle on random inputs, against numbers by hand, and their
gradients.
"""

import math

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.methods.losses import (
    class_ratio,
    class_temperature,
    cross_entropy,
    dominant_modality,
    knowledge_distillation,
    log_class_probability,
    masked_mean,
    true_class_probability,
)

NAN = math.nan
SEEDS = range(4)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_cross_entropy_is_the_oracles(seed: int) -> None:
    logits, labels = _random(seed, 7, 5), torch.arange(7) % 5
    rows = _random(seed + 10, 7) > 0
    expected = oracle.cross_entropy(logits.numpy(), labels.numpy(), rows.numpy())
    assert float(cross_entropy(logits, labels, rows)) == pytest.approx(expected, rel=1e-12)


def test_masked_mean_without_rows_is_zero() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert float(masked_mean(values, torch.tensor([True, False, True]))) == 3.5
    assert float(masked_mean(values, torch.zeros(3, dtype=torch.bool))) == 0.0


def test_true_class_probability_by_hand() -> None:
    """Logits (ln 3, 0) give probabilities (3/4, 1/4)."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]], requires_grad=True)
    found = true_class_probability(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([0.75, 0.25])
    assert not found.requires_grad


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_distillation_is_the_oracles(seed: int, scaled: bool) -> None:
    teacher, student = _random(seed, 6, 4), _random(seed + 10, 6, 4)
    temperature = 0.1 + 0.9 * torch.sigmoid(_random(seed + 20, 6))
    rows = _random(seed + 30, 6) > -0.5
    expected = oracle.distillation(
        *(x.numpy() for x in (teacher, student, temperature, rows)), scaled
    )
    found = knowledge_distillation(teacher, student, temperature, rows, scaled)
    assert float(found) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("scaled", "factor"), [(False, 1.0), (True, 0.25)])
def test_distillation_by_hand(scaled: bool, factor: float) -> None:
    """T = 1/2 turns the odds 3 : 1 into 9 : 1.

    Teacher = student gives the entropy of (0.9, 0.1), or its quarter.
    """
    logits = torch.tensor([[math.log(3), 0.0]])
    found = knowledge_distillation(
        logits, logits, torch.tensor([0.5]), torch.tensor([True]), scaled
    )
    assert float(found) == pytest.approx(factor * (0.9 * math.log(10 / 9) + 0.1 * math.log(10)))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_distilling_oneself_has_no_gradient(temperature: float, scaled: bool) -> None:
    student = _random(0, 5, 4).requires_grad_()
    every = torch.ones(5, dtype=torch.bool)
    knowledge_distillation(
        student, student, torch.full((5,), temperature).double(), every, scaled
    ).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_gradient_goes_to_the_student_only_and_is_the_softmax_difference() -> None:
    """dKD/dstudent = (softmax(student / T) - softmax(teacher / T)) / T / rows, here T = 1/2 and 2
    of 3 rows.
    """
    teacher, student = _random(1, 3, 4).requires_grad_(), _random(2, 3, 4).requires_grad_()
    rows = torch.tensor([True, False, True])
    knowledge_distillation(teacher, student, torch.full((3,), 0.5).double(), rows).backward()
    assert teacher.grad is None
    assert student.grad is not None
    for index in (0, 2):
        guess, target = (
            oracle.softmax(x[index].detach().numpy() / 0.5) for x in (student, teacher)
        )
        assert student.grad[index].numpy() == pytest.approx((guess - target) / 0.5 / 2, abs=1e-12)
    assert not student.grad[1].any()


def test_log_class_probability_by_hand() -> None:
    """0.5 of 2 is 1/4; nothing of 3 is clamped to 1e-6; more than 1 by rounding is 1.

    No sample is NaN.
    """
    total = torch.tensor([[0.5, 0.0], [2.0 + 1e-6, 0.0]]).double()
    found = log_class_probability(total, torch.tensor([[2.0, 3.0], [2.0, 0.0]]).double())
    expected = [[math.log(0.25), math.log(1e-6)], [0.0, NAN]]
    assert found.numpy() == pytest.approx(np.array(expected), nan_ok=True)


@pytest.mark.parametrize(
    ("probability", "candidates", "expected"),
    [
        pytest.param(
            [[0.9, 0.1], [0.5, 0.5]], [True, True], 1, id="mean of logarithms, not of probabilities"
        ),
        pytest.param([[0.9, 0.2], [0.5, 0.5]], [True, True], 1, id="ln 0.18 < ln 0.25"),
        pytest.param([[0.9, 0.4], [0.5, 0.5]], [True, True], 0, id="ln 0.36 > ln 0.25"),
        pytest.param(
            [[0.3, NAN], [0.4, 0.01]], [True, True], 1, id="only classes that both have seen"
        ),
        pytest.param(
            [[NAN, 0.3], [0.4, NAN]], [True, True], None, id="no class that both have seen"
        ),
        pytest.param([[0.9, 0.9], [0.5, 0.5]], [False, True], None, id="one candidate"),
        pytest.param([[0.9, 0.9], [0.5, 0.5]], [False, False], None, id="no candidate"),
        pytest.param(
            [[NAN, NAN], [0.5, 0.5], [0.6, 0.6]],
            [False, True, True],
            2,
            id="index among all modalities",
        ),
        pytest.param([[0.5, 0.5], [0.5, 0.5]], [True, True], 0, id="the first of equals"),
    ],
)
def test_dominant_modality_by_hand(
    probability: list[list[float]], candidates: list[bool], expected: int | None
) -> None:
    assert dominant_modality(torch.tensor(probability).log(), candidates) == expected


def test_class_ratio_by_hand() -> None:
    dominant, weak = torch.tensor([0.8, 0.3, NAN]).log(), torch.tensor([0.2, 0.6, 0.5]).log()
    assert class_ratio(dominant, weak).numpy() == pytest.approx(
        np.array([4.0, 0.5, NAN]), nan_ok=True
    )


def test_class_temperature_by_hand() -> None:
    """The mean of (1, 2, 6) is 3.

    T = 1 where r <= 3, and 1 / (1 + 2 ln 2) = 0.41906 where r = 6.
    """
    found = class_temperature(torch.tensor([1.0, NAN, 2.0, 6.0]), kappa=2.0)
    assert found.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.419060], abs=1e-6)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 2.0, 100.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_class_temperature_is_the_oracles_and_in_range(seed: int, kappa: float) -> None:
    ratio = np.exp(np.random.default_rng(seed).normal(size=8) * 3)
    ratio[seed] = NAN
    found = class_temperature(torch.from_numpy(ratio), kappa)
    assert found.numpy() == pytest.approx(
        np.array(oracle.temperature(ratio.tolist(), kappa)), rel=1e-12
    )
    assert bool(((found > 0) & (found <= 1)).all())
    assert kappa == 0 or bool((found < 1).any())


@pytest.mark.parametrize(
    "ratio", [[1.0] * 4, [2.5] * 4, [0.1] * 4, [3.0, NAN, 3.0, 3.0], [NAN] * 4]
)
def test_equal_ratios_have_temperature_one(ratio: list[float]) -> None:
    assert class_temperature(torch.tensor(ratio), kappa=2.0).tolist() == [1.0] * 4
