"""Sums of loss terms."""

import pytest
import torch

from fedcmi_flwr.client.running_losses import RunningLosses
from fedcmi_flwr.types import LossTerms


def test_losses_are_sums_over_samples() -> None:
    """Means 1.0 over 4 samples and 4.0 over 2 make 12 over 6."""
    losses = RunningLosses()
    losses.add(LossTerms({"fused": torch.tensor(1.0)}), 4)
    losses.add(LossTerms({"fused": torch.tensor(4.0), "kd": torch.tensor(0.5)}), 2)
    assert losses.sums() == {"fused": 12.0, "kd": 1.0}
    assert losses.counts == {"fused": 6, "kd": 2}


def test_a_term_that_is_not_finite_is_named() -> None:
    losses = RunningLosses()
    losses.add(LossTerms({"fused": torch.tensor(1.0), "kd": torch.tensor(float("nan"))}), 4)
    with pytest.raises(
        FloatingPointError, match=r"'kd' is not finite after local epoch 3.*lr \(0.1\)"
    ):
        losses.check(2, lr=0.1)
