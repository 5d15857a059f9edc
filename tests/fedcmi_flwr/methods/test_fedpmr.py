"""FedPMR: a node's prototypes, the batch's strongest modality and the others' term, against
NumPy.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import federate

from client_app.train import Received, begin_round
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.methods.fedpmr import FedPMR
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch

TWO = ("audio", "visual")
THREE = ("audio", "visual", "touch")
NODES = ("audio+visual", "audio", "visual")
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=1, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.0, weight_decay=0.0,
)  # fmt: skip


def _z(model: MultimodalModel, batch: Batch) -> dict[str, np.ndarray]:
    """Return each sample's embeddings; zeros where it lacks the modality."""
    return {name: value.detach().numpy() for name, value in model(batch).self_embeddings.items()}


def _near(x: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Return softmax over the known classes of -||x - p||; 0 for the others."""
    known = ~np.isnan(prototypes).any(axis=1)
    distance = np.sqrt(((x - np.nan_to_num(prototypes)) ** 2).sum(axis=1))
    return known * np.exp(-distance) / (known * np.exp(-distance)).sum()


def _oracle(
    z: dict[str, np.ndarray], prototypes: dict[str, np.ndarray], batch: Batch
) -> tuple[str, float]:
    """Return the strongest modality and the sum of the others' mean -ln softmax(-||z - p||)[y]."""
    labels, present = batch.labels.tolist(), batch.present.numpy()
    both = [i for i in range(len(labels)) if present[i].all()]
    scores = {name: sum(_near(z[name][i], prototypes[name])[labels[i]] for i in both) for name in z}
    strongest, total = max(scores, key=lambda name: scores[name]), 0.0
    for m, name in enumerate(z):
        known = ~np.isnan(prototypes[name]).any(axis=1)
        rows = [i for i, y in enumerate(labels) if present[i, m] and known[y]]
        if name != strongest and rows:
            total += float(
                np.mean([-np.log(_near(z[name][i], prototypes[name])[labels[i]]) for i in rows])
            )
    return strongest, total


@pytest.mark.parametrize("winner", range(3))
@pytest.mark.parametrize("modalities", [TWO, THREE])
@pytest.mark.parametrize("complete", [True, False])
def test_the_term_is_the_oracles_on_all_but_the_strongest(
    complete: bool, modalities: tuple[str, ...], winner: int
) -> None:
    """The winner's prototypes are its own class means, the others' those of another class.

    A class is unknown.
    """
    winner %= len(modalities)
    present = np.ones((8, len(modalities)), dtype=int)
    if not complete:
        present[2, 0] = present[4, 1] = present[6, 0] = 0
    model = oracle.model(modalities, structure="fusion")
    with torch.no_grad():
        model.branch(modalities[winner]).encoder.output.weight *= 30  # spreads its classes
    batch = oracle.batch(present.tolist(), range(len(modalities)))
    z, prototypes = _z(model, batch), {}
    for m, name in enumerate(modalities):
        means = [
            z[name][(batch.labels == c).numpy() & (present[:, m] == 1)].mean(axis=0)
            for c in range(3)
        ]
        prototypes[name] = np.array(means if m == winner else means[1:] + means[:1])
    prototypes[modalities[winner - 1]][2] = np.nan
    own = {name: torch.from_numpy(value) for name, value in prototypes.items()}
    method, output = FedPMR(weight=0.7), model(batch)
    terms = method.loss_terms(model, batch, output, oracle.local_round(model, method_state=own))
    strongest, expected = _oracle(z, prototypes, batch)
    assert strongest == modalities[winner]
    assert terms.values["prototype"].item() == pytest.approx(expected)
    assert terms.total().item() == pytest.approx(terms.values["fused"].item() + 0.7 * expected)
    terms.values["prototype"].backward()
    pulled = {
        name.split(".")[1]
        for name, w in model.named_parameters()
        if w.grad is not None and w.grad.any()
    }
    assert pulled == set(modalities) - {strongest}
    assert all(w.grad is None or torch.isfinite(w.grad).all() for w in model.parameters())


def test_prototypes_are_class_means_under_the_received_model() -> None:
    """In eval mode, over all of the node's samples; class 2 has none."""
    model, samples = oracle.model(structure="fusion").float(), oracle.samples(14)
    samples = replace(samples, rows=np.flatnonzero(samples.labels != 2))
    prototypes = begin_round(model, samples, FedPMR(), SETTINGS, 1, 0, Received()).method_state
    assert model.training
    batch = next(samples.batches(100, TWO))
    for name, z in _z(model.eval(), batch).items():
        labels = batch.labels.numpy()
        expected = np.array([*(z[labels == c].mean(axis=0) for c in (0, 1)), np.full(4, np.nan)])
        assert prototypes[name].numpy() == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_nodes_with_one_modality_train_plainly(tmp_path: Path, toy: Path) -> None:
    runs = [federate(tmp_path / name, toy, NODES, method=name) for name in ("fedpmr", "fedavg")]
    for run in runs:
        run.round(1)
    terms = [
        {key for key in reply.content["metrics"] if key.startswith("loss-sum.")}
        for reply in runs[0].replies
    ]
    assert terms == [
        {"loss-sum.fused", "loss-sum.prototype"},
        {"loss-sum.fused"},
        {"loss-sum.fused"},
    ]
    left, right = (
        [run.update(reply, part).arrays for part, reply in enumerate(run.replies)] for run in runs
    )
    same = [
        all(np.array_equal(left[part][name], right[part][name]) for name in right[part])
        for part in range(3)
    ]
    assert same == [False, True, True]


def test_a_weight_of_zero_is_fedavg(tmp_path: Path, toy: Path) -> None:
    zero = federate(tmp_path / "zero", toy, NODES, method="fedpmr", weight=0.0)
    plain = federate(tmp_path / "fedavg", toy, NODES, method="fedavg")
    left, right = zero.round(1), plain.round(1)
    assert all(np.array_equal(left[name], right[name]) for name in right)
