"""FedCMI+'s loss, term by term against NumPy, on samples that have both modalities and on some that
lack one.
"""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import METHODS, FedCMIPlus, Method
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.methods.losses import mean_log_probability
from fedcmi_flwr.types import Votes

PAIRS = [[1, 1]] * 5
SOME_ABSENT = [[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 1]]
PLAIN = FedCMIPlus(gamma=0.5, surrogate=2.0, lambda_=3.0, temperature=2.5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def teachers_of(*names: str, seed: int = 9) -> dict:
    received = oracle.model(seed=seed).eval()
    return {name: received.branch(name) for name in names}


@pytest.mark.parametrize("present", [PAIRS, SOME_ABSENT])
def test_every_term_and_the_total_are_the_equations(present: list) -> None:
    model, batch = oracle.model(), oracle.batch(present)
    teachers = teachers_of("audio", "visual")
    output = model(batch)
    terms = PLAIN.loss_terms(model, batch, output, oracle.local_round(model, teachers=teachers))

    labels, has = batch.labels.numpy(), batch.present.numpy()
    heads = [output.self_logits[name].detach().numpy() for name in ("audio", "visual")]
    taught = [
        teachers[name].self_logits(batch.inputs[name]).detach().numpy()
        for name in ("audio", "visual")
    ]

    together = sum(log_softmax(taught[m]) * has[:, m : m + 1] for m in range(2)) / has.sum(
        axis=1, keepdims=True
    )
    soft = np.exp(log_softmax(together / 2.5))
    per_sample = [-(soft * log_softmax(heads[m] / 2.5)).sum(axis=1) * 2.5**2 for m in range(2)]
    kd = sum(per_sample[m][has[:, m]].mean() for m in range(2))

    surrogate = 0.0
    for m in range(2):
        only = batch.present & (torch.arange(2) == m)
        logits = (
            model.fuse(output.self_embeddings, output.infiltration_embeddings, only)
            .detach()
            .numpy()
        )
        surrogate += oracle.cross_entropy(logits, labels, has[:, m])

    expected = {
        "fused": oracle.cross_entropy(
            output.fused_logits.detach().numpy(), labels, np.ones(len(labels), bool)
        ),
        "self": sum(oracle.cross_entropy(heads[m], labels, has[:, m]) for m in range(2)),
        "kd": kd,
        "surrogate": surrogate,
    }
    found = {name: value.item() for name, value in terms.values.items()}
    assert found == pytest.approx(expected, rel=1e-4)

    total = (
        expected["fused"] + 0.5 * expected["self"] + 3 * expected["kd"] + 2 * expected["surrogate"]
    )
    assert terms.total().item() == pytest.approx(total / 3.5, rel=1e-4)


def test_weights_of_a_branch_sum_to_one_without_distillation() -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    terms = METHODS["fedcmi-plus"].loss_terms(model, batch, model(batch), oracle.local_round(model))
    assert "kd" not in terms.values
    assert sum(terms.weights[name] for name in ("fused", "self", "surrogate")) == pytest.approx(1)


def test_a_node_with_one_modality_is_taught_by_that_modality() -> None:
    model, batch = oracle.model(owned=("audio",)), oracle.batch([[1, 0]] * 4)
    local = oracle.local_round(model, teachers=teachers_of("audio"))
    terms = PLAIN.loss_terms(model, batch, model(batch), local)
    assert set(terms.values) == {"fused", "self", "kd"}


def test_a_teacher_that_equals_the_student_has_no_gradient() -> None:
    method, batch = replace(PLAIN, gamma=0.0, surrogate=0.0), oracle.batch([[1, 0]] * 4)
    model = oracle.model(owned=("audio",)).eval()
    local = oracle.local_round(model, teachers={"audio": model.branch("audio")})
    terms = method.loss_terms(model, batch, model(batch), local)
    gradients = torch.autograd.grad(terms.values["kd"], list(model.parameters()), allow_unused=True)
    assert max(g.abs().max().item() for g in gradients if g is not None) < 1e-6


def test_the_mean_is_over_the_modalities_that_a_sample_has() -> None:
    logits = torch.tensor([[[0.0, 1.0]], [[3.0, -1.0]], [[5.0, 5.0]]])
    alone = mean_log_probability(logits, torch.tensor([[False], [True], [False]]))
    torch.testing.assert_close(alone, logits[1].log_softmax(dim=1))

    both = mean_log_probability(logits, torch.tensor([[True], [True], [False]]))
    torch.testing.assert_close(
        both, (logits[0].log_softmax(dim=1) + logits[1].log_softmax(dim=1)) / 2
    )
    assert mean_log_probability(logits, torch.zeros(3, 1, dtype=torch.bool)).abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "server_round", "expected"),
    [
        ({}, 1, ()),
        ({}, 2, ("audio", "visual")),
        ({"warmup": 0}, 1, ("audio", "visual")),
        ({"lambda_": 0.0}, 5, ()),
    ],
)
def test_every_modality_teaches_after_the_warmup(
    changes: dict, server_round: int, expected: tuple
) -> None:
    method = replace(METHODS["fedcmi-plus"], **changes)
    assert method.teaching(("audio", "visual"), server_round, NOBODY, None) == (NOBODY, expected)


def test_the_dominant_modality_is_recorded_and_not_sent() -> None:
    model = oracle.model()
    stats = measure(model, [oracle.batch(PAIRS)]).stats
    decided = METHODS["fedcmi-plus"].decide(stats)
    assert decided.dominant in ("audio", "visual")
    assert METHODS["fedcmi-plus"].broadcast(decided) == NOBODY


def test_projectors_start_as_the_identity_on_the_branches_that_are_there() -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    METHODS["fedcmi-plus"].initialize(model)
    output = model(batch)
    for name in ("audio", "visual"):
        z = model.branch(name).encode(batch.inputs[name])
        torch.testing.assert_close(output.self_embeddings[name], z)
        torch.testing.assert_close(output.infiltration_embeddings[name], z)

    METHODS["fedcmi-plus"].initialize(oracle.model(owned=("audio",)))


@pytest.mark.parametrize(
    "method", [replace(METHODS["fedcmi-plus"], identity_projectors=False), METHODS["fedcmi"]]
)
def test_projectors_of_other_methods_start_as_torch_made_them(method: Method) -> None:
    model = oracle.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method.initialize(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_self_heads_vote_with_half_the_weight_of_the_fusion_head() -> None:
    assert METHODS["fedcmi-plus"].votes == Votes(self_heads=0.5, infiltration_heads=0.0, fusion=1.0)
