"""Samples that lack a modality.

What they have counts, in every method's terms, and what they lack never does.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor

from client_app.train import Received, begin_round
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration, LocalRound, Method
from fedcmi_flwr.methods.losses import cross_entropy, knowledge_distillation
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch

THREE = ("audio", "visual", "touch")
MIXED = [
    [1, 1, 1],
    [1, 0, 0],
    [0, 1, 1],
    [1, 1, 0],
    [1, 1, 1],
    [0, 0, 1],
    [1, 0, 1],
    [0, 1, 0],
    [1, 1, 1],
]
NO_AUDIO = [[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
APART = [[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]]
FULL = CrossModalInfiltration(
    gamma=2.0,
    lambda_=3.0,
    surrogate=0.5,
    kd_temperature_scaling=True,
    unimodal_auxiliary=True,
    prior_adjustment=1.0,
)
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=1, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.0, weight_decay=0.0,
)  # fmt: skip
TEMPERATURES = {"visual": [0.9, 0.4, 1.0], "touch": [0.3, 0.8, 0.5]}
PRIORS = {"audio": [0.2, 0.5, 0.3], "visual": [0.6, 0.1, 0.3], "touch": [0.1, 0.1, 0.8]}


def _batch(present: Sequence[Sequence[int]]) -> Batch:
    return oracle.batch(present, (0, 1, 2))


def _scribbled(batch: Batch) -> Batch:
    """Return the batch with noise where a sample has nothing."""
    noise = torch.Generator().manual_seed(5)
    inputs = {}
    for column, (name, x) in enumerate(batch.inputs.items()):
        inputs[name] = x.clone()
        absent = ~batch.present[:, column]
        inputs[name][absent] = 7 * torch.randn(x[absent].shape, generator=noise, dtype=x.dtype)
    return replace(batch, inputs=inputs)


def _model(method: Method, normalization: str = "batch") -> MultimodalModel:
    return oracle.model(THREE, structure=method.structure, normalization=normalization)


def _after(
    model: MultimodalModel, method: Method, batch: Batch
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the terms and gradients of one batch, in a round in which every part of the method is
    at work.
    """
    fields = {"batches": lambda: iter([batch])}
    received, memory = {}, {}
    if method.measures:
        fields["stats"] = measure(model, [batch]).stats
        other = oracle.model(THREE, seed=9, structure=method.structure).eval()
        fields["teachers"] = {name: other.branch(name) for name in THREE}
        fields["dominance"] = oracle.decision("audio", **TEMPERATURES)
    if method is METHODS["fedproto"]:
        received = {
            f"prototype.{name}": torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
            for name in THREE
        }
        fields["log_prior"] = torch.zeros(3).double()
    if method is METHODS["moon"]:
        memory = _model(method).trained_state()
    local = oracle.local_round(model, **fields)
    local = replace(local, method_state=method.prepare(model, local, received, memory))
    terms = method.loss_terms(model, batch, model(batch), local)
    model.zero_grad()
    terms.total().backward()
    method.adjust_gradients(model, local)
    gradients = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    return {name: value.item() for name, value in terms.values.items()}, gradients


@pytest.mark.parametrize(
    "present", [MIXED, NO_AUDIO, APART], ids=["mixed", "no audio", "nothing in common"]
)
@pytest.mark.parametrize("name", [*sorted(METHODS), "fedcmi-batch"])
def test_what_a_sample_lacks_is_never_looked_at(name: str, present: list) -> None:
    """Noise in the place of what is missing changes neither a term nor a gradient nor batch norm's
    statistics.
    """
    method = replace(FULL, dominance="batch") if name == "fedcmi-batch" else METHODS[name]
    blank, scribbled = _model(method), _model(method)
    terms, gradients = _after(blank, method, _batch(present))
    others, other_gradients = _after(scribbled, method, _scribbled(_batch(present)))
    assert terms == others
    assert terms
    assert all(np.isfinite(value) for value in terms.values())
    assert set(gradients) == set(other_gradients)
    assert all(torch.equal(value, other_gradients[key]) for key, value in gradients.items())
    assert all(bool(value.isfinite().all()) for value in gradients.values())
    assert all(
        torch.equal(value, scribbled.get_buffer(key)) for key, value in blank.named_buffers()
    )


def _of(batch: Batch, rows: Tensor, names: Sequence[str]) -> Batch:
    """Return these samples as if they had nothing but ``names``."""
    known = torch.tensor([name in names for name in THREE])
    inputs = {name: batch.inputs[name][rows] for name in THREE}
    return Batch(
        inputs, batch.labels[rows], batch.present[rows] & known, False, batch.indices[rows]
    )


@pytest.mark.parametrize("present", [MIXED, NO_AUDIO], ids=["mixed", "no audio"])
def test_terms_and_gradients_are_those_of_the_samples_that_have_it(present: list) -> None:
    """Each term computed on a batch of its own samples alone.

    Group norm, which looks at one sample at a time.
    """
    batch, whole, parts = _batch(present), _model(FULL, "group"), _model(FULL, "group")
    teacher = oracle.model(THREE, seed=9).eval().branch("audio")
    log_prior_of = {name: torch.tensor(share).double().log() for name, share in PRIORS.items()}
    local = oracle.local_round(
        whole, teachers={"audio": teacher}, dominance=oracle.decision("audio", **TEMPERATURES),
        log_prior=torch.tensor([0.3, 0.3, 0.4]).double().log(), log_prior_of=log_prior_of,
    )  # fmt: skip
    FULL.loss_terms(whole, batch, whole(batch), local).total().backward()
    total = _cross_entropy(parts(batch).fused_logits, batch, local.log_prior)
    for column, name in enumerate(THREE):
        rows = batch.present[:, column]
        if rows.any():
            alone = _of(batch, rows, [name])
            output = parts(alone)
            total = total + FULL.gamma * _cross_entropy(
                output.self_logits[name], alone, log_prior_of[name]
            )
            total = total + FULL.surrogate * _cross_entropy(
                output.fused_logits, alone, log_prior_of[name]
            )
        both = rows & batch.present[:, 0]
        if name != "audio" and both.any():
            pair = _of(batch, both, ["audio", name])
            t = torch.tensor(TEMPERATURES[name]).double()[pair.labels]
            student = parts(pair).infiltration_logits[name]
            every = torch.ones_like(pair.labels, dtype=torch.bool)
            target = teacher.self_logits(pair.inputs["audio"])
            total = total + FULL.lambda_ * knowledge_distillation(target, student, t, every, True)
    total.backward()
    for key, w in whole.named_parameters():
        expected = parts.get_parameter(key).grad
        found = torch.zeros_like(w) if w.grad is None else w.grad
        assert torch.allclose(
            found, torch.zeros_like(w) if expected is None else expected, atol=1e-9
        ), key


def _cross_entropy(logits: Tensor, batch: Batch, log_prior: Tensor) -> Tensor:
    return cross_entropy(
        logits + log_prior, batch.labels, torch.ones_like(batch.labels, dtype=torch.bool)
    )


def test_late_fusions_branches_train_as_if_their_samples_were_all() -> None:
    """Batch norm too sees the samples with the modality alone."""
    method = METHODS["late-fusion"]
    batch, whole = _batch(MIXED), _model(method)
    method.loss_terms(whole, batch, whole(batch), oracle.local_round(whole)).total().backward()
    for column, name in enumerate(THREE):
        alone = _model(method)
        part = _of(batch, batch.present[:, column], [name])
        method.loss_terms(alone, part, alone(part), oracle.local_round(alone)).total().backward()
        for key, w in alone.branch(name).named_parameters():
            assert torch.allclose(whole.branch(name).get_parameter(key).grad, w.grad), key


def test_fedavg_fills_with_zeros() -> None:
    """F of z where there is one, and of zeros: one mean over all samples, whatever they have."""
    method = METHODS["fedavg"]
    batch, model = _batch(MIXED), _model(method, "group")
    found = method.loss_terms(model, batch, model(batch), oracle.local_round(model)).values["fused"]
    z = torch.stack([model.branch(name).encode(batch.inputs[name]) for name in THREE], dim=1)
    logits = model.fusion(z * batch.present.unsqueeze(2)).detach().numpy()
    assert found.item() == pytest.approx(
        oracle.cross_entropy(logits, batch.labels.numpy(), np.ones(9, dtype=bool))
    )


@pytest.mark.parametrize(
    ("present", "terms"), [(MIXED, {"fused", "prototype"}), (APART, {"fused"})]
)
def test_without_a_complete_sample_no_modality_is_the_strongest(
    present: list, terms: set[str]
) -> None:
    method = METHODS["fedpmr"]
    found, _ = _after(_model(method), method, _batch(present))
    assert set(found) == terms


@pytest.mark.parametrize(("present", "taught"), [(MIXED, True), (APART, False)])
def test_without_a_complete_sample_nobody_teaches_a_batch(present: list, taught: bool) -> None:
    found, _ = _after(_model(FULL), replace(FULL, dominance="batch"), _batch(present))
    assert ("kd" in found) == taught


@pytest.mark.parametrize("dominant", THREE)
def test_each_weak_modality_learns_from_the_dominant_one_at_its_own_temperatures(
    dominant: str,
) -> None:
    """KD is the sum over both weak modalities, each over the samples that have it and the dominant
    one.
    """
    temperatures = {"audio": [0.5, 1.0, 0.7], **TEMPERATURES}
    batch, model = _batch(MIXED), _model(FULL)
    teacher = oracle.model(THREE, seed=9).eval().branch(dominant)
    local = oracle.local_round(
        model, teachers={dominant: teacher}, dominance=oracle.decision(dominant, **temperatures)
    )
    output = model(batch)
    found = FULL.loss_terms(model, batch, output, local).values["kd"].item()
    target = teacher.self_logits(batch.inputs[dominant]).detach().numpy()
    has, labels, expected = batch.present.numpy(), batch.labels.numpy(), 0.0
    for column, name in enumerate(THREE):
        if name != dominant:
            rows = has[:, column] & has[:, THREE.index(dominant)]
            student = output.infiltration_logits[name].detach().numpy()
            expected += oracle.distillation(
                target, student, np.array(temperatures[name])[labels], rows, scaled=True
            )
    assert found == pytest.approx(expected)


def test_the_prior_of_a_modality_is_that_of_the_samples_that_have_it() -> None:
    """Six samples, labels 0 1 2 0 1 2; the two of class 0 have no visual: (0.5, 2.5, 2.5) of 5.5.

    All have audio.
    """
    samples = oracle.samples(6)
    has = samples.has.copy()
    has[[0, 3], 1] = False
    local = _round(replace(samples, has=has))
    assert local.log_prior.numpy() == pytest.approx(np.log([1 / 3] * 3))
    assert set(local.log_prior_of) == {"visual"}
    assert local.log_prior_of["visual"].numpy() == pytest.approx(
        np.log(np.array([0.5, 2.5, 2.5]) / 5.5)
    )
    assert _round(samples).log_prior_of == {}


def _round(samples: oracle.Samples) -> LocalRound:
    return begin_round(
        oracle.model().float(), samples, METHODS["fedavg"], SETTINGS, 1, 0, Received()
    )
