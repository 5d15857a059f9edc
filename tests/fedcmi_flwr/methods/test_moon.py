"""MOON: the contrast against NumPy, and which model is the previous one."""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import Federated, federate

from client_app.model import method_of
from client_app.node import read_node
from client_app.samples import node_samples
from client_app.train import Received, train
from fedcmi_flwr import wire
from fedcmi_flwr.config.sections import TrainingConfig, read_section
from fedcmi_flwr.methods.moon import Moon
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

NODES = ("audio+visual", "audio", "visual")
TWO = ("audio", "visual")
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=2, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.9, weight_decay=1e-3,
)  # fmt: skip


def _model(seed: int, owned: tuple[str, ...] = TWO) -> MultimodalModel:
    return oracle.model(seed=seed, owned=owned, structure="fusion")


def _representations(model: MultimodalModel, batch: Batch, training: bool) -> np.ndarray:
    """Return each sample's z of all modalities in a row; zeros where it lacks one."""
    rows = np.zeros((len(batch.labels), 2, 4))
    for m, name in enumerate(TWO):
        has = batch.present[:, m]
        if name in model.owned and has.any():
            z = model.branch(name).encoder.train(training)(batch.inputs[name][has])
            rows[has.numpy(), m] = z.detach().numpy()
    return rows.reshape(len(rows), 8)


def _contrast(own: np.ndarray, towards: np.ndarray, away: np.ndarray) -> float:
    """Return the mean of -ln(e^(cos(v, global) / 0.5) / (e^(cos(v, global) / 0.5) + e^(cos(v,
    previous) / 0.5))).
    """

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    losses = []
    for v, positive, negative in zip(own, towards, away, strict=True):
        p, n = np.exp(cosine(v, positive) / 0.5), np.exp(cosine(v, negative) / 0.5)
        losses.append(-np.log(p / (p + n)))
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("owned", "present"),
    [
        (TWO, [[1, 1]] * 5),
        (TWO, [[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 0]]),
        (("visual",), [[0, 1]] * 4),
    ],
)
def test_the_contrast_is_the_oracles(owned: tuple[str, ...], present: list[list[int]]) -> None:
    """The received model has trained on since; the others look at the batch in eval mode."""
    method, received, previous, model = (
        Moon(weight=3.0),
        _model(0, owned),
        _model(5, owned),
        _model(9, owned),
    )
    local = oracle.local_round(received)
    own = method.prepare(received, local, {}, previous.state_dict())
    batch = oracle.batch(present, [TWO.index(name) for name in owned])
    terms = method.loss_terms(
        model, batch, model(batch), oracle.local_round(received, method_state=own)
    )
    towards, away = (
        _representations(other, batch, training=False) for other in (received, previous)
    )
    expected = _contrast(_representations(model, batch, training=True), towards, away)
    assert terms.values["contrast"].item() == pytest.approx(expected)
    assert terms.total().item() == pytest.approx(terms.values["fused"].item() + 3 * expected)


def test_the_gradient_flows_into_the_trained_model_only() -> None:
    method, received, model = Moon(), _model(0), _model(9)
    own = method.prepare(received, oracle.local_round(received), {}, _model(5).state_dict())
    batch = oracle.batch([[1, 1]] * 5)
    terms = method.loss_terms(
        model, batch, model(batch), oracle.local_round(received, method_state=own)
    )
    terms.values["contrast"].backward()
    for other in (own.received, own.previous):
        assert not other.training
        assert not any(w.requires_grad or w.grad is not None for w in other.parameters())
    assert all(w.grad is None for w in received.parameters())
    assert {name for name, w in model.named_parameters() if w.grad is not None} == {
        name for name, _ in model.named_parameters() if "encoder" in name
    }
    assert model.branch("audio").encoder.output.weight.grad.any()


def test_training_changes_neither_of_the_models_it_is_compared_with() -> None:
    """The received model is trained in place; what MOON keeps of it is a copy."""
    method, model = Moon(), _model(0).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory = {name: value.clone() for name, value in _model(5).float().state_dict().items()}
    own = method.prepare(model, oracle.local_round(model), {}, memory)
    train(model, oracle.samples(12), method, SETTINGS, 1, 0, Received(memory=memory))
    assert all(
        torch.equal(value, before[name]) for name, value in own.received.state_dict().items()
    )
    assert all(
        torch.equal(value, memory[name]) for name, value in own.previous.state_dict().items()
    )
    assert not torch.equal(model.fusion.output.weight, before["fusion.output.weight"])


def _losses(run: Federated) -> list[set[str]]:
    metrics = [reply.content["metrics"] for reply in run.replies]
    return [
        {key.removeprefix("loss-sum.") for key in found if key.startswith("loss-sum.")}
        for found in metrics
    ]


def test_each_node_is_contrasted_with_its_own_model_of_its_last_turn(
    tmp_path: Path, toy: Path
) -> None:
    run = federate(tmp_path, toy, NODES, method="moon")
    run.round(1)
    assert _losses(run) == [{"fused"}] * 3
    sent, previous = run.arrays, []
    for partition, reply in enumerate(run.replies):
        task = wire.read_task(run.messages(2, sent)[partition])
        previous.append(wire.read_train_reply(reply, task.arrays, [], 3).arrays)
        kept = run.memory(partition)
        assert kept.keys() == previous[partition].keys()
        assert all(np.array_equal(kept[name], previous[partition][name]) for name in kept)
    run.round(2)
    assert _losses(run) == [{"fused", "contrast"}] * 3
    for partition, reply in enumerate(run.replies):
        task = wire.read_task(run.messages(2, sent)[partition])
        found = wire.read_train_reply(reply, task.arrays, [], 3).arrays
        expected = _trained(run, task, partition, previous[partition])
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        other = _trained(run, task, partition, task.arrays)
        assert not all(np.array_equal(found[name], other[name]) for name in other)


def _trained(
    run: Federated, task: wire.Task, partition: int, memory: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    node = read_node(run.grid.contexts[1001 + partition])
    samples = node_samples(node, "train", node.modalities)
    model = MultimodalModel(run.federation.spec, samples.modalities)
    model.load_state_dict(task.state_dict)
    settings, received = (
        read_section(TrainingConfig, task.config),
        Received(memory=to_state_dict(memory)),
    )
    train(model, samples, method_of(task), settings, 2, partition, received)
    return to_arrays(model.state_dict())


def test_a_weight_of_zero_is_fedavg(tmp_path: Path, toy: Path) -> None:
    moon = federate(tmp_path / "moon", toy, NODES, method="moon", weight=0.0)
    plain = federate(tmp_path / "fedavg", toy, NODES, method="fedavg")
    for server_round in (1, 2):
        left, right = moon.round(server_round), plain.round(server_round)
        assert all(np.array_equal(left[name], right[name]) for name in right)


def test_a_memory_of_another_model_is_no_previous_model() -> None:
    """A node that was of other modalities in its last turn starts anew."""
    received = _model(0)
    own = Moon().prepare(
        received, oracle.local_round(received), {}, _model(5, ("audio",)).state_dict()
    )
    assert own.previous is None
    batch = oracle.batch([[1, 1]] * 3)
    terms = Moon().loss_terms(
        received, batch, received(batch), oracle.local_round(received, method_state=own)
    )
    assert set(terms.values) == {"fused"}
