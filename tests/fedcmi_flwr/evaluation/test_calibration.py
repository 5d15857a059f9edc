"""Temperatures and calibration error: by hand, against SciPy and against a loop."""

import math

import numpy as np
import oracle
import pytest
import torch
from scipy.optimize import minimize_scalar

from fedcmi_flwr.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    NUM_BINS,
    Bins,
    CalibrationError,
    calibrate,
    choose,
    fit_temperature,
    mean_nll,
)
from fedcmi_flwr.evaluation.decision import Decision, rules, scores
from fedcmi_flwr.types import Votes


def test_temperature_by_hand() -> None:
    """Two classes, margin always 3 towards class 0, 3 of 4 right.

    sigmoid(3 / T) = 3/4, so T = 3 / ln 3.
    """
    found = torch.tensor([[3.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    assert fit_temperature(found, labels) == pytest.approx(3 / math.log(3), rel=1e-9)
    assert mean_nll(found, labels, 3 / math.log(3)) == pytest.approx(
        -(3 * math.log(0.75) + math.log(0.25)) / 4
    )


def _samples(seed: int, sharpness: float, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and labels drawn from their softmax, and the scores times ``sharpness``.

    The right T.
    """
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 5))
    labels = [generator.choice(5, p=oracle.softmax(row)) for row in logits]
    return torch.from_numpy(logits * sharpness), torch.tensor(labels)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_temperature_is_scipys(sharpness: float) -> None:
    found, labels = _samples(0, sharpness)

    def nll(log_temperature: float) -> float:
        chances = [
            oracle.softmax(row / math.exp(log_temperature))[y]
            for row, y in zip(found.numpy(), labels, strict=True)
        ]
        return -float(np.mean(np.log(chances)))

    best = minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(found, labels) == pytest.approx(math.exp(best.x), rel=1e-5)
    # The truth, up to sampling
    assert fit_temperature(found, labels) == pytest.approx(sharpness, rel=0.15)


def test_scaling_scores_scales_the_temperature() -> None:
    found, labels = _samples(1, 1.0)
    assert fit_temperature(found * 3, labels) == pytest.approx(
        3 * fit_temperature(found, labels), rel=1e-9
    )


def test_a_temperature_has_bounds() -> None:
    """All right: the sharper, the better. All wrong: the flatter, the better."""
    found, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    assert fit_temperature(found, labels) == pytest.approx(LOWEST_TEMPERATURE)
    assert fit_temperature(-found, labels) == pytest.approx(HIGHEST_TEMPERATURE)


@pytest.mark.parametrize(
    ("found", "labels", "reason"),
    [
        (torch.empty(0, 3), [], "0 samples of 0 classes"),
        (torch.eye(3), [1, 1, 1], "3 samples of 1 classes"),
        (torch.full((3, 3), math.nan), [0, 1, 2], "NaN or Inf"),
        (torch.full((3, 3), -math.inf), [0, 1, 2], "NaN or Inf"),
    ],
    ids=["empty", "one-class", "nan", "inf"],
)
def test_what_no_temperature_fits_is_refused(
    found: torch.Tensor, labels: list[int], reason: str
) -> None:
    with pytest.raises(CalibrationError, match=reason):
        fit_temperature(found, torch.tensor(labels, dtype=torch.long))


def test_the_rule_with_the_best_likelihood_is_chosen() -> None:
    """Noise costs likelihood whatever the temperature.

    A scaled copy is as good, so the first of both is taken.
    """
    found, labels = _samples(2, 1.0)
    noisy = found + torch.from_numpy(np.random.default_rng(0).normal(0, 4, found.shape))
    assert choose({"noisy": noisy, "good": found}, labels)[0] == "good"
    assert choose({"first": found, "second": found.clone()}, labels)[0] == "first"
    assert choose({"alone": found}, labels) == ("alone", fit_temperature(found, labels))


def test_calibration_error_by_hand() -> None:
    """Confidences 0.9 (right), 0.9 (wrong), 0.6 (right).

    |0.5 - 0.9| * 2/3 + |1 - 0.6| * 1/3 = 0.4.
    """
    chances = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    bins = Bins.of(chances.log(), torch.tensor([0, 1, 1]))
    assert bins.expected_error == pytest.approx(0.4)
    assert (bins.count[13], bins.correct[13], bins.count[8], bins.correct[8]) == (2, 1, 1, 1)
    assert bins.confidence[[8, 13]] == pytest.approx([0.6, 1.8])


def test_calibration_error_is_the_loops_and_adds_up_over_parts() -> None:
    found, labels = _samples(3, 2.0)
    log_probabilities = found.log_softmax(dim=1)
    errors = []
    for low in np.arange(NUM_BINS) / NUM_BINS:
        chosen = [
            (row.max(), row.argmax() == y)
            for row, y in zip(log_probabilities.exp().numpy(), labels.numpy(), strict=True)
            if low < row.max() <= low + 1 / NUM_BINS
        ]
        if chosen:
            confidence, right = np.mean(chosen, axis=0)
            errors.append(len(chosen) / len(labels) * abs(right - confidence))
    whole = Bins.of(log_probabilities, labels)
    parts = Bins.of(log_probabilities[:150], labels[:150]) + Bins.of(
        log_probabilities[150:], labels[150:]
    )
    assert whole.expected_error == pytest.approx(sum(errors))
    assert parts.expected_error == pytest.approx(sum(errors))
    assert whole.count.tolist() == parts.count.tolist()


def test_no_samples_have_no_calibration_error() -> None:
    assert math.isnan(Bins.of(torch.empty(0, 3), torch.empty(0, dtype=torch.long)).expected_error)


def test_certainty_is_in_the_last_bin() -> None:
    bins = Bins.of(torch.tensor([[0.0, -1000.0]]), torch.tensor([0]))
    assert (bins.count[-1], bins.confidence[-1], bins.expected_error) == (1, 1.0, 0.0)


def test_every_subset_gets_its_own_decision_and_says_why_it_has_none() -> None:
    """Visual alone has samples of one class only, audio those of all three.

    The model is as it was.
    """
    model = oracle.model().train()
    complete = oracle.batch(
        [[1, 0], [1, 0], [1, 1], [1, 0], [1, 0], [1, 1], [1, 0], [1, 0], [1, 1]] * 3
    )
    only_two = complete.labels[complete.present[:, 1]].unique()
    decisions, reasons = calibrate(model, [complete], Votes(1.0, 1.0))
    assert len(only_two) == 1
    assert model.training
    assert reasons.keys() == {("visual",), ("audio", "visual")}
    assert "9 samples of 1 classes" in reasons["visual",]
    assert decisions.of(("visual",)) == Decision(Votes(1.0, 1.0), 1.0, calibrated=False)
    assert decisions.of(("audio",)).calibrated


def test_decisions_are_those_of_all_batches_together() -> None:
    model = oracle.model().eval()
    batches = [oracle.batch([[1, 1]] * 12, seed=0), oracle.batch([[1, 1]] * 12, seed=1)]
    outputs = [model(batch) for batch in batches]
    visual = torch.tensor([[False, True]] * 12)
    candidates = {
        rule: torch.cat([scores(model, output, visual, votes).detach() for output in outputs])
        for rule, votes in rules(model.spec, Votes()).items()
    }
    rule, temperature = choose(candidates, torch.cat([batch.labels for batch in batches]))
    found = calibrate(model, batches, Votes())[0].of(("visual",))
    assert (found.rule, found.temperature) == (rule, pytest.approx(temperature))
