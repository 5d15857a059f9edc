"""FedCMI+'s teacher is the moving average of the global model, which travels beside the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from federated import Federated, federate

from client_app.train import begin_round
from fedcmi_flwr import wire
from fedcmi_flwr.client.begin import Received
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.wire.teacher import TEACHER

NODES = ["audio+visual", "audio", "visual"]
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=1, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.9, weight_decay=1e-3,
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a prepared directory."""
    present = {name: np.ones(24, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path / "data", present)


def tasks(run: Federated, server_round: int) -> list[wire.Task]:
    """Return what the nodes are asked in a round."""
    return [wire.read_task(message) for message in run.messages(server_round, run.arrays)]


def test_from_the_second_round_on_nodes_are_sent_the_average_of_what_they_own(
    tmp_path: Path, data: Path
) -> None:
    run = federate(tmp_path / "run", data, NODES, method="fedcmi-plus")
    assert [task.teacher for task in tasks(run, 1)] == [{}, {}, {}]

    for server_round in (1, 2):
        run.round(server_round)

    average = run.strategy.model_average.average
    assert not np.array_equal(
        average["branches.audio.classifier.weight"],
        run.arrays["branches.audio.classifier.weight"],
    )
    for task, text in zip(tasks(run, 3), NODES, strict=True):
        owned = tuple(f"branches.{name}." for name in text.split("+"))
        assert set(task.teacher) == {name for name in run.arrays if name.startswith(owned)}
        for name, value in task.teacher.items():
            assert value.tobytes() == np.asarray(average[name]).tobytes()


@pytest.mark.parametrize(
    "changes", [{"averaging": 0}, {"lambda": 0}, {"method": "fedcmi"}, {"method": "fedavg"}]
)
def test_without_an_average_or_a_teacher_nothing_more_is_sent(
    changes: dict[str, Any], tmp_path: Path, data: Path
) -> None:
    run = federate(tmp_path / "run", data, NODES, **{"method": "fedcmi-plus", **changes})
    run.round(1)
    assert [task.teacher for task in tasks(run, 2)] == [{}, {}, {}]


def test_to_evaluate_nothing_more_is_sent(tmp_path: Path, data: Path) -> None:
    run = federate(tmp_path / "run", data, NODES, method="fedcmi-plus", fraction_evaluate=1.0)
    run.round(1)
    messages = list(run.strategy.configure_evaluate(1, run.shown, {}, run.grid))
    assert len(messages) == 3
    assert not any(TEACHER in message.content for message in messages)


def test_the_average_is_measured_and_teaches_and_the_received_weights_are_trained() -> None:
    model, average = oracle.model(seed=1).float().eval(), oracle.model(seed=2).float().eval()
    samples, method = oracle.samples(13), METHODS["fedcmi-plus"]
    before = {name: value.clone() for name, value in model.state_dict().items()}

    teacher = {
        name: value for name, value in average.state_dict().items() if name.startswith("branches")
    }
    local = begin_round(model, samples, method, SETTINGS, 2, 0, Received(teacher=teacher))

    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(local.global_parameters[0], next(iter(model.parameters())))

    batches = list(samples.evaluation_batches(model.spec.modalities, torch.device("cpu")))
    expected = measure(average, batches).stats
    assert local.stats is not None
    for name in ("audio", "visual"):
        assert local.stats.probability_sum[name].tolist() == expected.probability_sum[name].tolist()
        with torch.no_grad():
            logits = average.branch(name).self_logits(batches[0].inputs[name])
        torch.testing.assert_close(local.teacher_logits(name, batches[0]), logits)


def test_a_run_that_starts_from_other_weights_has_no_average_yet(
    tmp_path: Path, data: Path
) -> None:
    run = federate(tmp_path / "run", data, NODES, method="fedcmi-plus")
    run.round(1)
    other = {name: value.copy() for name, value in run.arrays.items()}
    read = [wire.read_task(message) for message in run.messages(2, other)]
    assert [task.teacher for task in read] == [{}, {}, {}]
