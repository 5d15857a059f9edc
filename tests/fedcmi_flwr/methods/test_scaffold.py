"""SCAFFOLD: the corrected step, option II and the server's control variates, written out by
hand.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import Federated, federate, sends

from client_app.train import LocalResult, Received, train
from fedcmi_flwr.client import LocalObjective
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.methods import METHODS, LocalSteps
from fedcmi_flwr.methods.scaffold import effective_steps
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.seeding import torch_generator

SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=2, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.0, weight_decay=1e-3,
)  # fmt: skip
SCAFFOLD = METHODS["scaffold"]
NODES = ("audio+visual", "audio", "visual")
STEPS = 6
"""Two epochs of 13 samples in batches of 4, 4 and 5."""


def _model(**changes: object) -> MultimodalModel:
    return oracle.model(structure="fusion", **changes).float()


def _controls(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.1 * torch.randn(w.shape, generator=generator)
        for name, w in _model().named_parameters()
    }


def _train(model: MultimodalModel, settings: TrainingConfig, received: Received) -> LocalResult:
    return train(model, oracle.samples(13), SCAFFOLD, settings, 2, 1, received)


def test_a_round_is_corrected_sgd_and_option_two() -> None:
    """Each step: w <- w - lr (g + decay w - c_k + c); c_k+ = c_k - c + (w_0 - w_K) / (K lr)."""
    c, c_k, found, by_hand = _controls(1), _controls(2), _model(), _model().train()
    result = _train(found, SETTINGS, Received(from_server=c, memory=c_k))
    start = {name: w.detach().clone() for name, w in by_hand.named_parameters()}
    generator, steps = torch_generator(3, "batches", 2, 1), 0
    for _ in range(2):
        for batch in oracle.samples(13).training_batches(4, ("audio", "visual"), generator):
            loss = torch.nn.functional.cross_entropy(by_hand(batch).fused_logits, batch.labels)
            gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
            with torch.no_grad():
                for (name, w), g in zip(by_hand.named_parameters(), gradients, strict=True):
                    w -= 0.05 * (g + 1e-3 * w - c_k[name] + c[name])
            steps += 1
    assert steps == STEPS
    for name, w in by_hand.named_parameters():
        assert torch.allclose(found.get_parameter(name), w, atol=1e-5), name
        expected = c_k[name] - c[name] + (start[name] - w) / (STEPS * 0.05)
        assert torch.allclose(result.kept.memory[name], expected, atol=1e-4), name
        assert torch.allclose(result.kept.to_server[name], expected - c_k[name], atol=1e-4), name
    assert set(result.kept.memory) == set(result.kept.to_server) == set(start)


def test_without_drift_the_new_control_variate_is_the_mean_gradient() -> None:
    """In one plain step c_k+ = g: c and c_k cancel out."""
    one = replace(SETTINGS, local_epochs=1, batch_size=13, weight_decay=0.0)
    first, second = (_train(_model(), one, Received(from_server=c, memory=c_k)).kept.memory for c, c_k in
                     (({}, {}), (_controls(1), _controls(2))))  # fmt: skip
    model = _model().train()
    batch = next(
        oracle.samples(13).training_batches(
            13, ("audio", "visual"), torch_generator(3, "batches", 2, 1)
        )
    )
    torch.nn.functional.cross_entropy(model(batch).fused_logits, batch.labels).backward()
    for name, w in model.named_parameters():
        assert torch.allclose(first[name], w.grad, atol=1e-5), name
        assert torch.allclose(second[name], w.grad, atol=1e-5), name


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_effective_steps_are_how_far_a_constant_gradient_goes(count: int, momentum: float) -> None:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    for _ in range(count):
        w.grad = torch.ones_like(w)
        optimizer.step()
    assert effective_steps(LocalSteps(count, 0.1, momentum)) == pytest.approx(-w.item() / 0.1)


def test_a_round_at_learning_rate_zero_keeps_the_control_variates() -> None:
    """The last round of a decay to lr-min = 0 moves nothing, so it measures no gradient either."""
    c, c_k, model = _controls(1), _controls(2), _model()
    kept = _train(
        model,
        replace(SETTINGS, num_server_rounds=2, lr_decay_start=1),
        Received(from_server=c, memory=c_k),
    )
    assert all(torch.equal(value, c_k[name]) for name, value in kept.kept.memory.items())
    assert not any(value.any() for value in kept.kept.to_server.values())
    assert set(kept.kept.memory) == set(kept.kept.to_server) == set(c_k)


def test_accumulated_batches_count_as_one_step() -> None:
    """Batches of 4, 4 and 5 samples are one step an epoch, so both epochs are those of one batch of
    13.
    """
    plain = replace(SETTINGS, momentum=0.9, weight_decay=0.0)
    large, small = (
        _train(
            _model(normalization="group"),
            settings,
            Received(from_server=_controls(1), memory=_controls(2)),
        )
        for settings in (replace(plain, batch_size=13), replace(plain, accumulate_batches=4))
    )
    for name, value in large.kept.memory.items():
        assert torch.allclose(small.kept.memory[name], value, atol=1e-3), name


def test_an_optimiser_of_adams_kin_is_refused() -> None:
    objective = LocalObjective(_model(), SCAFFOLD, oracle.local_round(_model()), "scaffold")
    optimizer = torch.optim.AdamW(objective.model.parameters())
    with pytest.raises(
        ValueError,
        match=r"method 'scaffold' .* length of SGD's steps; found AdamW\. Step with torch",
    ):
        objective.step(optimizer)


def test_the_server_adds_the_changes_over_all_owners() -> None:
    """Both sampled nodes of 4 own a: 1 + (2 + 4) / 4; one of 2 owners sent b: 0 + 3 / 2.

    Nobody sent d.
    """
    replies = [
        {"a": np.array([2.0], np.float32), "b": np.array([3.0], np.float32)},
        {"a": np.array([4.0], np.float32)},
    ]
    state = {"a": np.array([1.0], np.float32), "d": np.array([7.0], np.float32)}
    found = SCAFFOLD.combine(state, replies, {"a": 4, "b": 2, "d": 1})
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [2.5],
        "b": [1.5],
        "d": [7.0],
    }
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert set(SCAFFOLD.for_node(found, ["audio"], ["b", "other"])) == {"b"}


def _mean_of_control_variates(run: Federated, nodes: int) -> dict[str, np.ndarray]:
    """Return, of each parameter, the mean of c_k over the nodes that own it.

    0 where a node has not trained yet.
    """
    kept = [run.memory(partition) for partition in range(nodes)]
    means = {}
    for name, w in run.federation.model.named_parameters():
        group = name.split(".")[1] if name.startswith("branches.") else ""
        owners = [
            i
            for i in range(nodes)
            if group in run.grid.contexts[1001 + i].node_config["modalities"]
        ]
        assert all(name in kept[i] for i in owners if kept[i])
        assert not any(name in kept[i] for i in range(nodes) if i not in owners)
        means[name] = sum(kept[i].get(name, np.zeros(w.shape)) for i in owners) / len(owners)
    return means


@pytest.mark.parametrize(
    ("nodes", "fraction"), [(NODES, 1.0), (("audio+visual",) * 3 + ("audio",), 0.5)]
)
def test_c_is_the_mean_of_the_nodes_control_variates(
    tmp_path: Path, toy: Path, nodes: tuple[str, ...], fraction: float
) -> None:
    run = federate(tmp_path, toy, nodes, method="scaffold", fraction_train=fraction, momentum=0.5)
    for server_round in (1, 2, 3):
        run.round(server_round)
        assert run.strategy.report.refused == []
        means = _mean_of_control_variates(run, len(nodes))
        assert any(value.any() for value in means.values())
        assert run.strategy.method_state.keys() <= means.keys()
        for name, mean in means.items():
            assert run.strategy.method_state.get(name, np.zeros(1)) == pytest.approx(
                mean, abs=1e-5
            ), name


def test_the_first_round_is_fedavg_and_the_second_is_not(tmp_path: Path, toy: Path) -> None:
    runs = [federate(tmp_path / name, toy, NODES, method=name) for name in ("fedavg", "scaffold")]
    first = [run.round(1) for run in runs]
    assert all(np.array_equal(first[0][name], first[1][name]) for name in first[0])
    second = [run.round(2) for run in runs]
    assert not all(np.array_equal(second[0][name], second[1][name]) for name in second[0])


W = "branches.audio.encoder.output.bias"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({}, "control variates are missing"),
        (
            {W: np.zeros(5, np.float32)},
            rf"'{W}', float32 \[5\], is no array that the node was sent",
        ),
        ({W: np.zeros(4, np.float64)}, rf"'{W}', float64 \[4\], is no array"),
        ({W: np.array(["a", "b", "c", "d"])}, rf"'{W}', <U1 \[4\], is no array"),
        ({W: np.full(4, np.nan, np.float32)}, f"'{W}' holds NaN"),
        ({W.replace("audio", "visual"): np.zeros(4, np.float32)}, "branches.visual.*is no array"),
        ({"magic": np.zeros(4, np.float32)}, "'magic'.*is no array"),
    ],
)
def test_a_node_that_sends_something_else_is_refused(
    tmp_path: Path, toy: Path, bad: dict[str, np.ndarray], words: str
) -> None:
    """Node 1 owns audio alone."""
    run = federate(tmp_path, toy, ("audio+visual", "audio"), method="scaffold")
    run.round(1, sends(1, lambda _: bad))
    assert run.strategy.report.owners["audio"] == [0]
    (line,) = run.strategy.report.refused
    assert "node 1002 (partition 1, audio)" in line
    assert re.search(words, line)
    run.round(2)
    assert run.strategy.report.refused == []
