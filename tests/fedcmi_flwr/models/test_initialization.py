"""The authors' initialisation: bounds and spreads by their formulas, and what keeps its weights."""

import math

import kinds
import pytest
import torch
from torch import nn

from fedcmi_flwr.models.encoders import build_encoder
from fedcmi_flwr.models.initialization import initialize


def test_xavier_and_kaiming_by_their_formulas() -> None:
    """Xavier's uniform bound is sqrt(6 / (in + out)).

    Kaiming's sigma by fan-out is sqrt(2 / (out x kernel)).
    """
    model = nn.Sequential(
        nn.Conv2d(20, 40, 3), nn.Conv1d(30, 50, 5), nn.Linear(300, 200), nn.BatchNorm2d(7)
    )
    biases = [layer.bias.detach().clone() for layer in model[:2]]
    torch.manual_seed(0)
    initialize(model, "xavier-kaiming")
    assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / (40 * 9)), rel=0.03)
    assert float(model[1].weight.detach().std()) == pytest.approx(math.sqrt(2 / (50 * 5)), rel=0.03)
    bound = math.sqrt(6 / 500)
    assert 0.99 * bound < float(model[2].weight.detach().abs().max()) <= bound
    assert float(model[2].weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not model[2].bias.any()
    assert all(torch.equal(layer.bias, bias) for layer, bias in zip(model[:2], biases, strict=True))
    assert (model[3].weight == 1).all()


@pytest.mark.parametrize("kind", ["torch", "xavier-kaiming"])
def test_pretrained_trunks_keep_their_weights(kind: str) -> None:
    encoder = build_encoder("resnet18", kinds.IMAGE, 4, options=kinds.TINY["resnet18"])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    initialize(encoder, kind, [encoder.trunk])
    changed = {
        name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == (set() if kind == "torch" else {"output.weight", "output.bias"})


def test_torchs_own_way_draws_nothing() -> None:
    """Otherwise the numbers of older runs would change."""
    model = nn.Linear(3, 3)
    before = torch.random.get_rng_state()
    initialize(model, "torch")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"initialization 'zeros': not one of .*xavier-kaiming"):
        initialize(nn.Identity(), "zeros")
