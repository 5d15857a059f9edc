"""What each method adds to loss and gradient, against the oracle on a tiny model's own outputs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import CrossModalInfiltration, FedAvg, Method
from fedcmi_flwr.methods.dominance import NOBODY, decide_dominance
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import ClassStats, LossTerms, ModelOutput

TWO = ("audio", "visual")
PAIRS = [[1, 1]] * 5
SOME_ABSENT = [[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 1]]
TEMPERATURES = {"audio": [0.5, 1.0, 0.25], "visual": [0.9, 0.4, 1.0]}
FULL = CrossModalInfiltration(
    gamma=2.0,
    lambda_=3.0,
    warmup=1,
    surrogate=0.5,
    kd_temperature_scaling=True,
    unimodal_auxiliary=True,
)


def _arrays(values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in values.items()}


def _slots(model: MultimodalModel, output: ModelOutput, mask: np.ndarray) -> torch.Tensor:
    u, q = (
        np.stack(
            [part.get(m, np.zeros_like(next(iter(part.values())))) for m in model.spec.modalities],
            axis=1,
        )
        for part in (_arrays(output.self_embeddings), _arrays(output.infiltration_embeddings))
    )
    return torch.from_numpy(oracle.fill(u, q, mask))


def _teachers(*names: str, seed: int = 9) -> dict:
    other = oracle.model(seed=seed).eval()
    return {name: other.branch(name) for name in names}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("present", [PAIRS, SOME_ABSENT])
@pytest.mark.parametrize(("dominant", "weak"), [TWO, TWO[::-1]])
def test_every_term_is_the_oracles(dominant: str, weak: str, present: list, scaled: bool) -> None:
    model, batch = oracle.model(), oracle.batch(present)
    teachers = _teachers(dominant)
    decided = oracle.decision(dominant, **{weak: TEMPERATURES[weak]})
    local = oracle.local_round(model, teachers=teachers, dominance=decided)
    output = model(batch)
    terms = replace(FULL, kd_temperature_scaling=scaled).loss_terms(model, batch, output, local)
    labels, mask = batch.labels.numpy(), batch.present.numpy()
    every = np.ones(len(labels), dtype=bool)
    u_logits, q_logits = _arrays(output.self_logits), _arrays(output.infiltration_logits)
    teacher = teachers[dominant].self_logits(batch.inputs[dominant]).detach().numpy()
    surrogate = 0.0
    for m in range(2):
        logits = model.fusion(_slots(model, output, mask & (np.arange(2) == m))).detach().numpy()
        surrogate += oracle.cross_entropy(logits, labels, mask[:, m])
    expected = {
        "fused": oracle.cross_entropy(
            model.fusion(_slots(model, output, mask)).detach().numpy(), labels, every
        ),
        "self": sum(
            oracle.cross_entropy(u_logits[name], labels, mask[:, m]) for m, name in enumerate(TWO)
        ),
        "kd": oracle.distillation(
            teacher, q_logits[weak], np.array(TEMPERATURES[weak])[labels], mask.all(axis=1), scaled
        ),
        "surrogate": surrogate,
    }
    assert {name: value.item() for name, value in terms.values.items()} == pytest.approx(
        expected, rel=1e-6
    )
    total = (
        expected["fused"] + 2 * expected["self"] + 3 * expected["kd"] + 0.5 * expected["surrogate"]
    )
    assert terms.total().item() == pytest.approx(total, rel=1e-6)


def test_total_weighs_by_name_and_one_where_unnamed() -> None:
    terms = LossTerms({"a": torch.tensor(2.0), "b": torch.tensor(5.0)}, {"b": 10.0, "c": 7.0})
    assert float(terms.total()) == 52.0


@pytest.mark.parametrize(("auxiliary", "expected"), [(False, {"fused"}), (True, {"fused", "self"})])
def test_unimodal_nodes_have_neither_kd_nor_surrogate(auxiliary: bool, expected: set[str]) -> None:
    model, batch = oracle.model(owned=("audio",)), oracle.batch([[1, 0]] * 4, (0,))
    local = oracle.local_round(
        model, dominance=oracle.decision("visual", audio=TEMPERATURES["audio"])
    )
    terms = replace(FULL, unimodal_auxiliary=auxiliary).loss_terms(
        model, batch, model(batch), local
    )
    assert set(terms.values) == expected


@pytest.mark.parametrize(
    ("change", "missing"),
    [({"gamma": 0.0}, "self"), ({"surrogate": 0.0}, "surrogate")],
)
def test_a_weight_of_zero_leaves_its_term_out(change: dict[str, float], missing: str) -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    local = oracle.local_round(
        model, teachers=_teachers("audio"), dominance=oracle.decision("audio")
    )
    terms = replace(FULL, **change).loss_terms(model, batch, model(batch), local)
    assert set(terms.values) == {"fused", "self", "kd", "surrogate"} - {missing}


DECIDED = oracle.decision("audio", visual=TEMPERATURES["visual"])
OWN = ClassStats(
    {"audio": np.array([0.5]), "visual": np.array([0.9])}, dict.fromkeys(TWO, np.array([1]))
)


@pytest.mark.parametrize(
    ("change", "owned", "server_round", "dominant", "teachers"),
    [
        pytest.param({"warmup": 0}, TWO, 1, "audio", ("audio",), id="no warm-up"),
        pytest.param({"warmup": 1}, TWO, 1, None, (), id="warm-up"),
        pytest.param({"warmup": 1}, TWO, 2, "audio", ("audio",), id="after the warm-up"),
        pytest.param({"warmup": 3}, TWO, 3, None, (), id="last round of a longer warm-up"),
        pytest.param(
            {"dominance": "client"},
            TWO,
            2,
            "visual",
            ("visual",),
            id="the node's own statistics decide",
        ),
        pytest.param(
            {"dominance": "client"}, TWO, 1, None, (), id="nor before the warm-up is over"
        ),
        pytest.param({"dominance": "batch"}, TWO, 2, None, TWO, id="anybody may teach a batch"),
        pytest.param({}, ("audio",), 2, None, (), id="one modality"),
        pytest.param({}, ("visual", "touch"), 2, None, (), id="dominant modality not owned"),
    ],
)
def test_who_may_teach_when(
    change: dict,
    owned: tuple[str, ...],
    server_round: int,
    dominant: str | None,
    teachers: tuple[str, ...],
) -> None:
    """The server says audio; the node's own statistics say visual."""
    decided, found = replace(FULL, **change).teaching(owned, server_round, DECIDED, OWN)
    assert (decided.dominant, found) == (dominant, teachers)


def test_nobody_teaches_where_nothing_is_measured() -> None:
    assert FULL.teaching(TWO, 2, DECIDED, None) == (NOBODY, ())
    assert FedAvg().teaching(TWO, 2, DECIDED, OWN) == (NOBODY, ())
    assert FedAvg().decide(OWN) == FedAvg().broadcast(DECIDED) == NOBODY


def test_nobody_teaches_without_a_decision_or_where_the_dominant_modality_is_not_owned() -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    for decided in (NOBODY, oracle.decision("touch", audio=TEMPERATURES["audio"])):
        local = oracle.local_round(model, teachers=_teachers("audio"), dominance=decided)
        assert "kd" not in FULL.loss_terms(model, batch, model(batch), local).values


def test_temperature_is_one_where_nobody_measured_the_weak_modality() -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    local = oracle.local_round(
        model, teachers=_teachers("audio"), dominance=oracle.decision("audio")
    )
    output = model(batch)
    teacher = local.teachers["audio"].self_logits(batch.inputs["audio"]).detach().numpy()
    student, ones = output.infiltration_logits["visual"].detach().numpy(), np.ones(5)
    expected = oracle.distillation(teacher, student, ones, ones > 0, scaled=True)
    assert FULL.loss_terms(model, batch, output, local).values["kd"].item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize("winner", [0, 1])
def test_batch_dominance_lets_the_winner_of_the_batch_teach(winner: int) -> None:
    """The classifier's bias for each row's class makes the winner.

    Labels of one class, so it wins in every row.
    """
    model = oracle.model()
    batch = replace(oracle.batch(PAIRS), labels=torch.ones(5, dtype=torch.int64))
    with torch.no_grad():
        for m, name in enumerate(TWO):
            model.branch(name).classifier.bias[1] = 5.0 if m == winner else -5.0
    method = replace(FULL, dominance="batch")
    d, weak = TWO[winner], TWO[1 - winner]
    stats = ClassStats(
        {"audio": np.array([0.5, 1.5, 0.2]), "visual": np.array([1.0, 0.3, 0.4])},
        {name: np.array([2, 3, 1]) for name in TWO},
    )
    local = oracle.local_round(model, teachers=_teachers(*TWO), stats=stats)
    calls = _count_calls(local.teachers)
    output = model(batch)
    found = method.loss_terms(model, batch, output, local).values["kd"]
    _, _, temperatures = oracle.decide(stats.probability_sum, stats.count, method.kappa, d)
    teacher = local.teachers[d].self_logits(batch.inputs[d]).detach().numpy()
    student, rows = output.infiltration_logits[weak].detach().numpy(), np.ones(5, dtype=bool)
    expected = oracle.distillation(
        teacher, student, np.array(temperatures[weak])[batch.labels], rows, scaled=True
    )
    assert found.item() == pytest.approx(expected)
    assert calls == {d: 2, weak: 0}  # once by the method, once by this test


def _count_calls(teachers: Mapping[str, torch.nn.Module]) -> dict[str, int]:
    calls = dict.fromkeys(teachers, 0)
    for name, branch in teachers.items():

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        branch.encoder.trunk.register_forward_hook(count)
    return calls


def test_samples_without_both_modalities_do_not_decide_the_batch() -> None:
    """Audio wins on the two complete samples; visual would win on the sum over all five rows."""
    model = oracle.model().eval()
    batch = replace(
        oracle.batch([[1, 1], [1, 1], [0, 1], [0, 1], [0, 1]]),
        labels=torch.ones(5, dtype=torch.int64),
    )
    with torch.no_grad():
        model.branch("audio").classifier.bias[1] = 5.0
        model.branch("visual").classifier.bias[1] = 3.0
    output = model(batch)
    p = {m: [oracle.softmax(row)[1] for row in output.self_logits[m].detach().numpy()] for m in TWO}
    assert sum(p["audio"][:2]) > sum(p["visual"][:2])
    assert sum(p["audio"]) < sum(p["visual"])
    local = oracle.local_round(model, teachers=_teachers(*TWO), stats=measure(model, [batch]).stats)
    calls = _count_calls(local.teachers)
    replace(FULL, dominance="batch").loss_terms(model, batch, output, local)
    assert calls == {"audio": 1, "visual": 0}


@pytest.mark.parametrize("seed", range(4))
def test_decision_is_the_oracles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = {name: rng.integers(0, 9, size=6) for name in ("a", "b", "c")}
    total = {name: values * rng.uniform(size=6) ** 2 for name, values in count.items()}
    found = decide_dominance(ClassStats(total, count), kappa=2.0)
    d, ratio, temperatures = oracle.decide(total, count, 2.0)
    assert found.dominant == d
    assert set(found.ratio) == set(found.temperature) == set(ratio)
    for name in ratio:
        assert found.ratio[name].numpy() == pytest.approx(np.array(ratio[name]), nan_ok=True)
        assert found.temperature[name].numpy() == pytest.approx(np.array(temperatures[name]))


def test_decision_needs_two_modalities_with_samples() -> None:
    one = ClassStats({"a": np.ones(2)}, {"a": np.array([2, 2])})
    assert decide_dominance(one, 2.0) == NOBODY
    empty = ClassStats(
        {"a": np.ones(2), "b": np.zeros(2)}, {"a": np.array([2, 2]), "b": np.array([0, 0])}
    )
    assert decide_dominance(empty, 2.0) == NOBODY
    apart = ClassStats(
        {"a": np.ones(2), "b": np.ones(2)}, {"a": np.array([2, 0]), "b": np.array([0, 2])}
    )
    assert decide_dominance(apart, 2.0) == NOBODY


def test_a_modality_without_samples_is_left_out() -> None:
    """With p = 3/4 for a, 1/4 for b, nothing for c, a teaches b with r = 3, and T = 1 since all r
    are equal.
    """
    total = {"a": np.array([1.5, 0.75]), "b": np.array([0.5, 0.25]), "c": np.zeros(2)}
    count = {"a": np.array([2, 1]), "b": np.array([2, 1]), "c": np.array([0, 0])}
    found = decide_dominance(ClassStats(total, count), 2.0)
    assert found.dominant == "a"
    assert {name: value.tolist() for name, value in found.ratio.items()} == {
        "b": pytest.approx([3.0, 3.0])
    }
    assert found.temperature["b"].tolist() == pytest.approx([1.0, 1.0])


def test_class_statistics_add_up() -> None:
    left = ClassStats({"a": np.array([1.0, 2.0])}, {"a": np.array([1, 2])})
    right = ClassStats(
        {"a": np.array([0.5, 0.0]), "b": np.array([3.0, 3.0])},
        {"a": np.array([1, 0]), "b": np.array([4, 4])},
    )
    total = left + right
    assert {name: value.tolist() for name, value in total.probability_sum.items()} == {
        "a": [1.5, 2.0],
        "b": [3.0, 3.0],
    }
    assert {name: value.tolist() for name, value in total.count.items()} == {
        "a": [2, 2],
        "b": [4, 4],
    }
    assert left.probability_sum["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("method", [FedAvg(mu=0.7), CrossModalInfiltration(mu=0.7)])
def test_proximal_gradient_by_hand(method: Method) -> None:
    """The gradient grows by mu (w - w_global); parameters without gradient stay without."""
    model = oracle.model()
    local = oracle.local_round(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    batch = oracle.batch(PAIRS)
    FedAvg().loss_terms(model, batch, model(batch), local).total().backward()
    before = {
        name: None if w.grad is None else w.grad.clone() for name, w in model.named_parameters()
    }
    method.adjust_gradients(model, local)
    for (name, w), start in zip(model.named_parameters(), local.global_parameters, strict=True):
        if before[name] is None:
            assert w.grad is None
            continue
        assert torch.allclose(w.grad, before[name] + 0.7 * (w.detach() - start)), name
    assert None in before.values()  # the classifiers do not enter CE(F)


def test_mu_of_zero_leaves_the_gradient_bits_alone() -> None:
    model, batch = oracle.model(), oracle.batch(PAIRS)
    local = oracle.local_round(model)
    FedAvg().loss_terms(model, batch, model(batch), local).total().backward()
    before = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    FedAvg().adjust_gradients(model, local)
    assert before
    assert all(
        torch.equal(model.get_parameter(name).grad, gradient) for name, gradient in before.items()
    )
