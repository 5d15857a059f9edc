"""ModDrop: which modalities are hidden, and the loss on what is left."""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import federate

from client_app.train import Received, begin_round
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.methods.moddrop import ModDrop, kept_modalities

NODES = ("audio+visual", "audio", "visual")
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=1, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.0, weight_decay=0.0,
)  # fmt: skip


def test_a_share_of_the_samples_keeps_one_of_its_modalities_chosen_evenly() -> None:
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool).repeat(
        3000, 1
    )
    kept = kept_modalities(present, 0.5, torch.Generator().manual_seed(0))
    assert not (kept & ~present).any()
    owned, left = present.sum(1), kept.sum(1)
    assert (left[owned > 0] >= 1).all() and ((left == owned) | (left == 1)).all()
    assert abs(float((left[owned > 1] == 1).float().mean()) - 0.5) < 0.03
    alone = kept[(owned == 3) & (left == 1)].float().mean(0)
    np.testing.assert_allclose(alone, [1 / 3] * 3, atol=0.05)


def test_everything_dropped_is_the_cross_entropy_of_one_slot_and_zeros() -> None:
    """Weight 1 against NumPy.

    Every sample is predicted from the slot that the seed keeps, the other one is zero.
    """
    model, samples = oracle.model(structure="fusion").eval(), oracle.samples(8)
    batch = oracle.batch([[1, 1]] * 8)
    local = begin_round(model, samples, ModDrop(weight=1.0), SETTINGS, 2, 0, Received())
    again = begin_round(model, samples, ModDrop(weight=1.0), SETTINGS, 2, 0, Received())
    kept = kept_modalities(batch.present, 1.0, again.generator).numpy()
    assert kept.sum(1).tolist() == [1] * 8 and kept.any(axis=0).all()
    with torch.no_grad():
        output = model(batch)
        found = ModDrop(weight=1.0).loss_terms(model, batch, output, local).total()
    weight, bias = (value.detach().numpy() for value in model.fusion.parameters())
    z = [output.self_embeddings[name].numpy() for name in model.spec.modalities]
    losses = []
    for i, label in enumerate(batch.labels.tolist()):
        slots = np.concatenate([z[m][i] * kept[i, m] for m in range(2)])
        losses.append(-np.log(oracle.softmax(weight @ slots + bias)[label]))
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_a_weight_of_zero_is_fedavg(tmp_path: Path, toy: Path) -> None:
    zero = federate(tmp_path / "zero", toy, NODES, method="moddrop", weight=0.0)
    plain = federate(tmp_path / "fedavg", toy, NODES, method="fedavg")
    left, right = zero.round(1), plain.round(1)
    assert all(np.array_equal(left[name], right[name]) for name in right)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight = 1\.5: must be a number from 0 to 1"):
        ModDrop(weight=1.5)
