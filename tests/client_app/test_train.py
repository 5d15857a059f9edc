"""Local training: the equivalences that must hold, seeds, and what is kept of the received
model.
"""

from dataclasses import replace

import oracle
import pytest
import torch

from client_app.train import Received, begin_round, train
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration, FedAvg, Method
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.seeding import torch_generator

SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=2, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.9, weight_decay=1e-3,
)  # fmt: skip
ONE_STEP = replace(SETTINGS, local_epochs=1, batch_size=12)
NO_INFILTRATION = CrossModalInfiltration(gamma=0.0, lambda_=0.0, mu=0.0, surrogate=0.0)
TOLD = Received(oracle.decision("audio", visual=[0.5, 1.0, 0.7]))
TEACHING = CrossModalInfiltration(
    gamma=1.0, lambda_=1.0, mu=0.1, surrogate=1.0, kd_temperature_scaling=True
)


def _model(**changes: object) -> MultimodalModel:
    return oracle.model(**changes).float()


def _trained(
    method: Method,
    settings: TrainingConfig = SETTINGS,
    samples: Samples | None = None,
    server_round: int = 2,
    partition: int = 0,
    **changes: object,
) -> dict[str, torch.Tensor]:
    model = _model(**changes)
    train(model, samples or oracle.samples(13), method, settings, server_round, partition, TOLD)
    return model.state_dict()


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("owned", [("audio",), ("audio", "visual")])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_infiltration_without_its_terms_is_fedprox_to_the_bit(
    mu: float, owned: tuple[str, ...]
) -> None:
    samples = oracle.samples(13, owned)
    found = _trained(
        replace(NO_INFILTRATION, mu=mu), samples=samples, owned=owned, structure="fusion"
    )
    assert _equal(found, _trained(FedAvg(mu=mu), samples=samples, owned=owned, structure="fusion"))
    assert not _equal(found, _model(owned=owned, structure="fusion").state_dict())


def test_fedprox_with_mu_of_zero_is_fedavg_and_another_mu_is_not() -> None:
    assert METHODS["fedavg"] == FedAvg(mu=0.0)
    plain = _trained(METHODS["fedavg"], structure="fusion")
    assert _equal(_trained(replace(METHODS["fedprox"], mu=0.0), structure="fusion"), plain)
    assert not _equal(_trained(METHODS["fedprox"], structure="fusion"), plain)


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_one_full_batch_step_is_plain_sgd(mu: float) -> None:
    """The first step has no momentum yet and the proximal term is 0 at w = w_global.

    It ends at w - lr (g + decay w).
    """
    samples, reference = oracle.samples(12), _model(structure="fusion").train()
    batch = next(samples.batches(12, ("audio", "visual")))
    z = [reference.branch(name).encoder(batch.inputs[name]) for name in ("audio", "visual")]
    torch.nn.functional.cross_entropy(
        reference.fusion(torch.stack(z, dim=1)), batch.labels
    ).backward()
    found = _trained(FedAvg(mu=mu), ONE_STEP, samples, structure="fusion")
    for name, w in reference.named_parameters():
        assert w.grad is not None
        expected = w.detach() - 0.05 * (w.grad + 1e-3 * w.detach())
        assert torch.allclose(found[name], expected, atol=1e-6), name


def test_second_step_pulls_back_to_the_received_weights() -> None:
    """Two runs that differ in mu alone share w_1, and differ in w_2 by lr mu (w_1 - w_0)."""
    samples, two = oracle.samples(12), replace(ONE_STEP, local_epochs=2, weight_decay=0.0)
    start = dict(_model(structure="fusion").named_parameters())
    first = _trained(FedAvg(), replace(two, local_epochs=1), samples, structure="fusion")
    plain = _trained(FedAvg(), two, samples, structure="fusion")
    pulled = _trained(FedAvg(mu=2.0), two, samples, structure="fusion")
    for name in start:
        expected = plain[name] - 0.05 * 2.0 * (first[name] - start[name].detach())
        assert torch.allclose(pulled[name], expected, atol=1e-5), name


@pytest.mark.parametrize("method", [FedAvg(), TEACHING])
def test_the_same_seed_gives_the_same_bits(method: Method) -> None:
    structure = method.structure
    first = _trained(method, structure=structure)
    torch.manual_seed(99)
    assert _equal(_trained(method, structure=structure), first)
    for other in (
        _trained(method, replace(SETTINGS, seed=4), structure=structure),
        _trained(method, server_round=3, structure=structure),
        _trained(method, partition=1, structure=structure),
    ):
        assert not _equal(other, first)


def test_learning_rate_is_that_of_the_round() -> None:
    """Decay from 0.05 after round 2 to 0 in round 4: round 4 leaves every weight as it was."""
    settings = replace(ONE_STEP, lr_decay_start=2)
    found, start = _trained(FedAvg(), settings, server_round=4), _model()
    assert all(torch.equal(found[name], w) for name, w in start.named_parameters())
    half = _trained(FedAvg(), settings, oracle.samples(12), server_round=3)
    by_hand = _trained(FedAvg(), replace(ONE_STEP, lr=0.025), oracle.samples(12), server_round=3)
    assert _equal(half, by_hand)


def _two_steps_of_torchs_adamw(
    model: MultimodalModel, server_round: int, mu: float, norm: float
) -> None:
    """Take the steps of two epochs over one batch of CE(F), clipped, and the proximal gradient."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    start = {name: w.detach().clone() for name, w in model.named_parameters()}
    generator, samples = torch_generator(3, "batches", server_round, 0), oracle.samples(12)
    for _ in range(2):
        batch = next(samples.training_batches(12, ("audio", "visual"), generator))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch).fused_logits, batch.labels).backward()
        for group in model.trained_groups().values():
            torch.nn.utils.clip_grad_norm_(group, norm)
        for name, w in model.named_parameters():
            if w.grad is not None:
                w.grad += mu * (w.detach() - start[name])
        optimizer.step()


@pytest.mark.parametrize(("mu", "norm"), [(0.0, 1e9), (2.0, 1e9), (2.0, 0.05)])
def test_adamw_trains_as_torchs_does(mu: float, norm: float) -> None:
    """Clipped and proximal gradients go into AdamW's moments.

    What it keeps begins at zero with each round.
    """
    settings = replace(ONE_STEP, local_epochs=2, lr=0.01, optimizer="adamw", weight_decay=0.1)
    method = FedAvg(mu=mu, max_gradient_norm=norm)
    for server_round in (1, 2):
        reference = _model(structure="fusion").train()
        _two_steps_of_torchs_adamw(reference, server_round, mu, norm)
        found = _trained(method, settings, oracle.samples(12), server_round, structure="fusion")
        for name, w in reference.named_parameters():
            assert torch.allclose(found[name], w, atol=1e-6), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_are_one_large_batch(optimizer: str) -> None:
    """Three batches of 5, 5 and 3 samples; group norm, since batch norm sees each batch alone."""
    settings = replace(SETTINGS, lr=0.01, optimizer=optimizer, batch_size=13)
    changes: dict[str, object] = {"structure": "fusion", "normalization": "group"}
    large = _trained(FedAvg(), settings, **changes)
    small = replace(settings, batch_size=5)
    found = _trained(FedAvg(), replace(small, accumulate_batches=3), **changes)
    left_over = _trained(FedAvg(), replace(small, accumulate_batches=2), **changes)
    assert all(torch.allclose(found[name], large[name], atol=2e-5) for name in large)
    assert not all(torch.allclose(left_over[name], large[name], atol=2e-5) for name in large)


def test_an_epochs_last_step_takes_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 4, 4 and 5 samples, two at a time: two steps in each of two epochs."""
    steps = []
    monkeypatch.setattr(SGD, "step", lambda self: steps.append(len(self.parameters)))
    _trained(
        FedAvg(), replace(SETTINGS, accumulate_batches=2), structure="fusion", normalization="group"
    )
    assert len(steps) == 4


def test_distillation_changes_the_weak_modality_only_through_its_infiltration_path() -> None:
    """With KD alone besides CE(F), the dominant branch trains as without KD.

    The weak one does not.
    """
    method = CrossModalInfiltration(gamma=0.0, lambda_=1.0, mu=0.0)
    samples = oracle.samples(12)
    with_kd = _trained(method, ONE_STEP, samples)
    without = _trained(replace(method, lambda_=0.0), ONE_STEP, samples)
    differing = {name for name in with_kd if not torch.equal(with_kd[name], without[name])}
    moved = {".".join(name.split(".")[1:3]) for name in differing}
    assert moved == {"visual.encoder", "visual.infiltration_projector", "visual.classifier"}


def test_surrogate_trains_the_infiltration_projectors() -> None:
    method = replace(NO_INFILTRATION, surrogate=1.0)
    found, start = _trained(method), _model()
    moved = {name for name, w in start.named_parameters() if not torch.equal(found[name], w)}
    assert {
        "branches.audio.infiltration_projector.weight",
        "branches.visual.infiltration_projector.weight",
    } <= moved
    assert not any("classifier" in name for name in moved)


@pytest.mark.parametrize(
    ("method", "server_round", "owned", "teachers"),
    [
        pytest.param(TEACHING, 2, ("audio", "visual", "touch"), {"audio"}, id="global"),
        pytest.param(TEACHING, 1, ("audio", "visual", "touch"), set(), id="warm-up"),
        pytest.param(TEACHING, 2, ("visual", "touch"), set(), id="dominant modality not owned"),
        pytest.param(TEACHING, 2, ("audio",), set(), id="unimodal"),
        pytest.param(
            replace(TEACHING, dominance="batch"),
            2,
            ("audio", "touch"),
            {"audio", "touch"},
            id="batch",
        ),
        pytest.param(replace(TEACHING, lambda_=0.0), 2, ("audio", "visual"), set(), id="lambda 0"),
        pytest.param(FedAvg(), 2, ("audio", "visual"), set(), id="fedavg"),
    ],
)
def test_only_branches_that_may_teach_are_kept(
    method: Method, server_round: int, owned: tuple[str, ...], teachers: set[str]
) -> None:
    model = _model(modalities=("audio", "visual", "touch"), owned=owned, structure=method.structure)
    local = begin_round(model, oracle.samples(6, owned), method, SETTINGS, server_round, 0, TOLD)
    assert set(local.teachers) == teachers
    assert local.unimodal == (len(owned) == 1)
    assert (local.stats is None) == (not method.measures)


def test_client_dominance_is_decided_from_the_nodes_own_statistics() -> None:
    model, samples = _model(), oracle.samples(9)
    method = replace(TEACHING, dominance="client")
    local = begin_round(model, samples, method, SETTINGS, 2, 0, Received())
    assert local.stats is not None
    d, _, temperatures = oracle.decide(local.stats.probability_sum, local.stats.count, method.kappa)
    assert local.dominance.dominant == d
    assert set(local.teachers) == {d}
    for name, values in temperatures.items():
        assert local.dominance.temperature[name].tolist() == pytest.approx(values)


def test_the_teacher_stays_the_received_model_while_the_model_trains() -> None:
    model = _model()
    local = begin_round(model, oracle.samples(12), TEACHING, SETTINGS, 2, 0, TOLD)
    teacher, before = local.teachers["audio"], {n: w.clone() for n, w in model.state_dict().items()}
    train(model, oracle.samples(12), TEACHING, SETTINGS, 2, 0, TOLD)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[f"branches.audio.{name}"])
        assert (
            not torch.equal(model.state_dict()[f"branches.audio.{name}"], value)
            or "num_batches" in name
        )
    assert not teacher.training
    assert not any(w.requires_grad for w in teacher.parameters())
    for start, (name, _) in zip(local.global_parameters, model.named_parameters(), strict=True):
        assert torch.equal(start, before[name])


def test_statistics_are_those_of_the_received_model() -> None:
    model, samples = _model(), oracle.samples(12)
    expected = begin_round(model, samples, TEACHING, SETTINGS, 1, 0, Received()).stats
    found = train(model, samples, TEACHING, SETTINGS, 1, 0, Received()).stats
    assert found is not None
    assert expected is not None
    for name in ("audio", "visual"):
        assert found.probability_sum[name].tolist() == expected.probability_sum[name].tolist()
        assert found.count[name].tolist() == [4, 4, 4]


def test_losses_are_sums_over_samples_and_epochs() -> None:
    result = train(_model(), oracle.samples(13), TEACHING, SETTINGS, 2, 0, TOLD)
    assert result.loss_count == dict.fromkeys(("fused", "self", "kd", "surrogate"), 2 * 13)


def test_divergence_is_an_error_that_names_the_term() -> None:
    with pytest.raises(
        FloatingPointError, match=r"term 'fused' is not finite after local epoch 1.*lr"
    ):
        train(_model(), oracle.samples(12), FedAvg(), replace(SETTINGS, lr=1e30), 1, 0, Received())
