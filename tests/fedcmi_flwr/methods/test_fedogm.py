"""FedOGM: who is ahead, whose convolutions shrink, and the noise."""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import federate

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.methods.fedogm import FedOGM, unimodal_logits
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch

TWO = ("audio", "visual")
THREE = ("audio", "visual", "touch")


def _coefficients(
    model: MultimodalModel, batch: Batch, z: dict[str, np.ndarray], alpha: float
) -> dict[str, float]:
    """Return 1 - tanh(alpha rho) where rho = s_m / mean of the others' s is above 1, else 1."""
    weight, bias = (
        value.detach().numpy() for value in (model.fusion.output.weight, model.fusion.output.bias)
    )
    scores = {}
    for m, name in enumerate(model.spec.modalities):
        scores[name] = 0.0
        for i, y in enumerate(batch.labels.tolist()):
            if batch.present[i].all():
                logits = weight[:, 4 * m : 4 * m + 4] @ z[name][i] + bias / len(
                    model.spec.modalities
                )
                scores[name] += oracle.softmax(logits)[y]
    found = {}
    for name, score in scores.items():
        rho = score / np.mean([other for key, other in scores.items() if key != name])
        found[name] = 1 - np.tanh(alpha * rho) if rho > 1 else 1.0
    return found


@pytest.mark.parametrize("modalities", [TWO, THREE])
@pytest.mark.parametrize("complete", [True, False])
def test_only_convolutions_shrink_and_by_the_oracles_coefficient(
    complete: bool, modalities: tuple[str, ...]
) -> None:
    """The noise is the only other change: it is what the same numbers of the generator give."""
    present = np.ones((6, len(modalities)), dtype=int)
    if not complete:
        present[1, 0] = present[4, 1] = 0
    method, model = FedOGM(weight=0.4), oracle.model(modalities, structure="fusion")
    batch = oracle.batch(present.tolist(), range(len(modalities)))
    local = oracle.local_round(model, method_state={}, generator=torch.Generator().manual_seed(7))
    output = model(batch)
    z = {name: value.detach().numpy() for name, value in output.self_embeddings.items()}
    terms = method.loss_terms(model, batch, output, local)
    assert set(terms.values) == {"fused"}
    terms.total().backward()
    before = {name: w.grad.clone() for name, w in model.named_parameters()}
    method.adjust_gradients(model, local)
    expected = _coefficients(model, batch, z, 0.4)
    assert local.method_state == pytest.approx(expected)
    assert 1 <= sum(value < 1 for value in expected.values()) < len(modalities)
    numbers = torch.Generator().manual_seed(7)
    for name, w in model.named_parameters():
        if w.ndim == 4:
            noise = torch.randn(w.shape, generator=numbers).double() * (before[name].std() + 1e-8)
            assert torch.allclose(w.grad, expected[name.split(".")[1]] * before[name] + noise), name
        else:
            assert torch.equal(w.grad, before[name]), name


def test_unimodal_logits_add_up_to_the_fused_ones() -> None:
    model, batch = (
        oracle.model(THREE, structure="fusion").eval(),
        oracle.batch([[1, 1, 1]] * 4, range(3)),
    )
    output = model(batch)
    parts = [unimodal_logits(model, output, name) for name in THREE]
    assert torch.allclose(torch.stack(parts).sum(0), output.fused_logits)


def test_the_noise_has_the_gradients_own_standard_deviation() -> None:
    model = oracle.model(structure="fusion")
    for w in model.parameters():
        w.grad = (
            0.01 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1)).double() + 0.5
        )
    local = oracle.local_round(model, method_state={"audio": 1.0, "visual": 1.0})
    before = {name: w.grad.clone() for name, w in model.named_parameters()}
    FedOGM().adjust_gradients(model, local)
    noises = [w.grad - before[name] for name, w in model.named_parameters() if w.ndim == 4]
    # 18432 numbers: the estimate's own deviation is half a percent
    large = max(noises, key=torch.numel)
    assert float(large.std()) == pytest.approx(0.01, rel=0.03)
    assert abs(float(large.mean())) < 0.01 * 4 / large.numel() ** 0.5


def test_nodes_with_one_modality_and_a_weight_of_zero_train_plainly(
    tmp_path: Path, toy: Path
) -> None:
    nodes = ("audio+visual", "audio", "visual")
    full, zero, plain = (
        federate(tmp_path / name, toy, nodes, method=name.split("-")[0], **changes)
        for name, changes in (("fedogm", {}), ("fedogm-zero", {"weight": 0.0}), ("fedavg", {}))
    )
    rounds = [run.round(1) for run in (full, zero, plain)]
    assert all(np.array_equal(rounds[1][name], rounds[2][name]) for name in rounds[2])
    parts = [
        [run.update(reply, p).arrays for p, reply in enumerate(run.replies)]
        for run in (full, plain)
    ]
    same = [
        all(np.array_equal(parts[0][p][name], parts[1][p][name]) for name in parts[1][p])
        for p in range(3)
    ]
    assert same == [False, True, True]


def test_the_noise_follows_seed_round_and_partition(tmp_path: Path, toy: Path) -> None:
    nodes = ("audio+visual", "audio+visual")
    first, second, other = (
        federate(tmp_path / str(i), toy, nodes, method="fedogm", seed=s)
        for i, s in enumerate((0, 0, 1))
    )
    start = first.arrays
    second.arrays = other.arrays = start
    left, right, third = (run.round(1) for run in (first, second, other))
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert not all(np.array_equal(left[name], third[name]) for name in left)


@pytest.mark.parametrize("fusion", ["sum", "film", "gated"])
def test_another_fusion_head_is_refused_before_the_run(
    tmp_path: Path, toy: Path, fusion: str
) -> None:
    with pytest.raises(ConfigError, match=f"fusion = '{fusion}': method 'fedogm' needs concat"):
        federate(tmp_path, toy, TWO, method="fedogm", fusion=fusion)
    model = oracle.model(structure="fusion", fusion=fusion)
    with pytest.raises(ValueError, match=f"'fedogm': fusion = '{fusion}'"):
        METHODS["fedogm"].prepare(model, oracle.local_round(model), {}, {})
