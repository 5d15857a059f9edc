"""Shared by all: prior adjustment, gradient clipping, one projector, chosen modalities, arrays
nobody asked for.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import federate, sends

from client_app.train import Received, begin_round, train
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration, FedAvg, Method
from fedcmi_flwr.models.multimodal import mask_for

TWO = ("audio", "visual")
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=1, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.0, weight_decay=0.0,
)  # fmt: skip
FULL = CrossModalInfiltration(
    gamma=2.0, lambda_=3.0, surrogate=0.5, kd_temperature_scaling=True, unimodal_auxiliary=True
)
SKEWED = [0.7, 0.05, 0.25]


def test_the_prior_is_the_nodes_share_of_each_class_with_half_a_sample_added() -> None:
    """Of the node's six samples four are of class 0, two of class 1, none of class 2.

    4.5, 2.5 and 0.5 of 7.5.
    """
    samples = oracle.samples(30)
    rows = np.array([0, 3, 6, 9, 1, 4])
    local = begin_round(
        oracle.model(structure="fusion").float(),
        samples.select(rows),
        FedAvg(),
        SETTINGS,
        1,
        0,
        Received(),
    )
    assert local.log_prior.numpy() == pytest.approx(np.log(np.array([4.5, 2.5, 0.5]) / 7.5))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_cross_entropy_sees_the_prior_and_distillation_does_not(strength: float) -> None:
    model, batch = oracle.model(), oracle.batch([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]])
    fields = {
        "teachers": {"audio": oracle.model(seed=9).eval().branch("audio")},
        "dominance": oracle.decision("audio", visual=[0.9, 0.4, 1.0]),
        "log_prior": torch.tensor(SKEWED).log(),
    }
    local, output = oracle.local_round(model, **fields), model(batch)
    plain = FULL.loss_terms(model, batch, output, local).values
    found = replace(FULL, prior_adjustment=strength).loss_terms(model, batch, output, local).values
    shift, labels, has = strength * np.log(SKEWED), batch.labels.numpy(), batch.present.numpy()
    every = np.ones(5, dtype=bool)

    def adjusted(logits: torch.Tensor, rows: np.ndarray) -> float:
        return oracle.cross_entropy(logits.detach().numpy() + shift, labels, rows)

    u, q = output.self_embeddings, output.infiltration_embeddings
    alone = [model.fuse(u, q, mask_for((name,), TWO, batch.present)[0]) for name in TWO]
    expected = {
        "fused": adjusted(output.fused_logits, every),
        "self": sum(adjusted(output.self_logits[name], has[:, m]) for m, name in enumerate(TWO)),
        "surrogate": sum(adjusted(alone[m], has[:, m]) for m in range(2)),
        "kd": plain["kd"].item(),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, rel=1e-5
    )
    assert all(
        found[name].item() != pytest.approx(plain[name].item())
        for name in ("fused", "self", "surrogate")
    )


@pytest.mark.parametrize("method", [FedAvg(), METHODS["late-fusion"]])
def test_fedavg_and_late_fusion_see_the_prior_too(method: Method) -> None:
    model, batch = oracle.model(structure=method.structure), oracle.batch([[1, 1]] * 4)
    local, output = oracle.local_round(model, log_prior=torch.tensor(SKEWED).log()), model(batch)
    found = (
        replace(method, prior_adjustment=2.0).loss_terms(model, batch, output, local).total().item()
    )
    logits = (
        [output.fused_logits] if method.structure == "fusion" else list(output.self_logits.values())
    )
    shift, every = 2 * np.log(SKEWED), np.ones(4, dtype=bool)
    expected = sum(
        oracle.cross_entropy(x.detach().numpy() + shift, batch.labels.numpy(), every)
        for x in logits
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_strength_of_zero_does_not_look_at_the_prior() -> None:
    model, batch = oracle.model(), oracle.batch([[1, 1]] * 4)
    output = model(batch)
    skewed, nonsense = (
        FULL.loss_terms(model, batch, output, oracle.local_round(model, log_prior=prior)).total()
        for prior in (torch.tensor(SKEWED).log(), torch.full((3,), torch.nan))
    )
    assert torch.equal(skewed, nonsense)


@pytest.mark.parametrize("structure", ["two-projectors", "unimodal"])
def test_each_parameter_group_is_clipped_by_itself(structure: str) -> None:
    model = oracle.model(structure=structure)
    groups = dict(model.branches.items()) | (
        {"fusion": model.fusion} if structure != "unimodal" else {}
    )
    steep = {"audio": 30.0, "visual": 0.5, "fusion": 8.0}
    before = {}
    for name, group in groups.items():
        for parameter in group.parameters():
            parameter.grad = torch.randn_like(parameter)
        size = np.sqrt(sum((parameter.grad.numpy() ** 2).sum() for parameter in group.parameters()))
        for parameter in group.parameters():
            parameter.grad *= steep[name] / size
        before[name] = [parameter.grad.clone() for parameter in group.parameters()]
    Method().clip_gradients(model)
    assert all(
        torch.equal(g, p.grad)
        for n in groups
        for g, p in zip(before[n], groups[n].parameters(), strict=True)
    )
    Method(max_gradient_norm=10.0).clip_gradients(model)
    for name, group in groups.items():
        scale = min(1.0, 10.0 / steep[name])
        for gradient, parameter in zip(before[name], group.parameters(), strict=True):
            assert parameter.grad.numpy() == pytest.approx(gradient.numpy() * scale, rel=1e-4)


def test_training_clips_before_the_proximal_gradient_is_added() -> None:
    """One step of plain SGD from a model that is the global one.

    Every group moves by at most lr * norm.
    """
    model, samples = oracle.model(structure="two-projectors").float(), oracle.samples(4)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, samples, FedAvg(max_gradient_norm=1e-3, mu=5.0), SETTINGS, 1, 0, Received())
    for prefix in ("branches.audio.", "branches.visual.", "fusion."):
        moved = [
            (value - start[name]).detach().numpy()
            for name, value in model.named_parameters()
            if name.startswith(prefix)
        ]
        length = np.sqrt(sum((change**2).sum() for change in moved))
        assert length == pytest.approx(SETTINGS.lr * 1e-3, rel=1e-3)


def test_without_infiltration_the_self_logits_are_the_students() -> None:
    method, model = replace(FULL, infiltration=False), oracle.model(structure="one-projector")
    batch, teacher = oracle.batch([[1, 1]] * 5), oracle.model(seed=9).eval().branch("audio")
    local = oracle.local_round(
        model,
        teachers={"audio": teacher},
        dominance=oracle.decision("audio", visual=[0.9, 0.4, 1.0]),
    )
    output, every = model(batch), np.ones(5, dtype=bool)
    found = method.loss_terms(model, batch, output, local).values["kd"].item()
    teaches = teacher.self_logits(batch.inputs["audio"]).detach().numpy()
    temperature = np.array([0.9, 0.4, 1.0])[batch.labels]
    student = output.self_logits["visual"].detach().numpy()
    assert found == pytest.approx(
        oracle.distillation(teaches, student, temperature, every, scaled=True)
    )


def test_a_federation_without_infiltration_projectors_trains(tmp_path: Path, toy: Path) -> None:
    run = federate(
        tmp_path, toy, ("audio+visual", "audio"), method="fedcmi", surrogate=1.0, infiltration=False
    )
    assert not any("infiltration" in name for name in run.arrays)
    for server_round in (1, 2):
        run.round(server_round)
        assert run.strategy.report.refused == []
    assert set(run.strategy.report.losses) == {"fused", "self", "kd", "surrogate"}


def test_group_norm_leaves_no_buffer_to_average(tmp_path: Path, toy: Path) -> None:
    run = federate(
        tmp_path, toy, ("audio+visual", "visual"), method="fedavg", normalization="group"
    )
    assert {value.dtype for value in run.round(1).values()} == {np.dtype(np.float32)}
    assert not any("running" in name for name in run.arrays)
    assert run.strategy.report.refused == []


@pytest.mark.parametrize("method", ["fedavg", "moon", "fedpmr"])
def test_arrays_that_the_method_did_not_ask_for_are_refused(
    tmp_path: Path, toy: Path, method: str
) -> None:
    run = federate(tmp_path, toy, ("audio+visual", "audio"), method=method)
    assert not any("method-arrays" in message.content for message in run.messages(1, run.arrays))
    run.round(1, sends(1, lambda _: {"extra": np.zeros(2, np.float32)}))
    (line,) = run.strategy.report.refused
    assert re.search(
        r"node 1002 .*method-arrays: arrays \['extra'\] that this method did not ask for", line
    )
    assert run.strategy.report.owners["shared"] == [0]
    assert run.strategy.method_state == {}


def test_half_of_a_record_is_refused(tmp_path: Path, toy: Path) -> None:
    def without_layout(replies: list) -> list:
        del replies[1].content["method-layout"]
        return replies

    run = federate(tmp_path, toy, ("audio+visual", "audio"), method="scaffold")
    run.round(1, without_layout)
    (line,) = run.strategy.report.refused
    assert "record 'method-layout' is NoneType" in line


def test_a_federation_on_audio_leaves_visual_nodes_and_the_visual_branch_out(
    tmp_path: Path, toy: Path
) -> None:
    run = federate(
        tmp_path, toy, ("audio+visual", "visual", "audio"), method="fedavg", modalities="audio"
    )
    assert run.federation.spec.modalities == ("audio",)
    assert not any("visual" in name for name in run.arrays)
    for server_round in (1, 2):
        run.round(server_round)
        assert run.strategy.report.refused == []
        assert run.strategy.report.owners == {"audio": [0, 2], "shared": [0, 2]}
    (found,) = run.strategy.nodes.unusable.values()
    assert (
        "this node owns ['visual'], none of the run's modalities ['audio']: it takes no part"
        in found.reason
    )
    metrics = run.evaluate(2)
    assert set(metrics) == {"accuracy.fused", "accuracy.audio only"}
    assert metrics["accuracy.fused"] == metrics["accuracy.audio only"]
