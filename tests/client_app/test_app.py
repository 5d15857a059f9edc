"""The ClientApp with real data: what a node says, is sent, trains and gives back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from digits import Parts, node_configs, node_of
from flwr.app import ConfigRecord
from visits import visited

from client_app.model import method_of
from client_app.samples import node_samples
from client_app.train import Received, train
from fedcmi_flwr import wire
from fedcmi_flwr.config.sections import TrainingConfig, read_section
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict


def test_a_unimodal_node_moves_about_half_the_bytes(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(node_configs("audio+visual", "audio", "visual"))
    strategy = federation.strategy
    messages = list(
        strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    replies = list(grid.send_and_receive(messages))
    strategy.aggregate_train(1, replies)
    assert strategy.report.refused == []
    for sizes in (strategy.report.bytes_down, strategy.report.bytes_up):
        parameters = 4 * sum(w.numel() for w in federation.model.parameters())
        assert parameters < sizes[0] < 1.1 * parameters
        assert sizes[1] <= 0.55 * sizes[0]
        assert sizes[2] <= 0.55 * sizes[0]
    groups = [set(reply.content["layout"]) for reply in replies]
    assert groups == [{"audio", "visual", "shared"}, {"audio", "shared"}, {"visual", "shared"}]


def test_a_train_message_is_followed_file_by_file(federate: Callable[..., Parts]) -> None:
    """From the message to training no file comes twice, nor from there to the reply.

    The casts of tensors apart.
    """
    federation, grid, arrays = federate(
        node_configs("audio+visual"), method="scaffold", batch_size=256
    )
    task = ConfigRecord(federation.task_config())
    messages = list(federation.strategy.configure_train(1, arrays, task, grid))
    files = visited(lambda: list(grid.send_and_receive(messages)), "client_app", "fedcmi_flwr/wire")
    codec = [f"fedcmi_flwr/wire/{name}.py" for name in ("records", "packing")]
    node = [
        f"client_app/{name}.py"
        for name in ("node", "samples", "model", "stored_features", "memory", "train", "budget")
    ]
    assert [name for name in files if name != "fedcmi_flwr/wire/tensors.py"] == [
        "client_app/app.py", "fedcmi_flwr/wire/task.py", *codec, *node,
        "client_app/memory.py", "fedcmi_flwr/wire/train.py", "fedcmi_flwr/wire/applied.py", *codec,
    ]  # fmt: skip


def test_a_node_trains_what_the_library_trains(federate: Callable[..., Parts]) -> None:
    """The app decodes, calls ``train`` with the server's settings, and encodes.

    Nothing else happens to the weights.
    """
    federation, grid, arrays = federate(
        node_configs("audio+visual", "visual"), method="fedcmi", mu=0.5, lr=0.1
    )
    strategy = federation.strategy
    messages = list(
        strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    reply = list(grid.send_and_receive(messages))[1]
    task = wire.read_task(messages[1])
    update = wire.read_train_reply(reply, task.arrays, ["visual"], 10)
    node = node_of(dict(federation.config.raw), node_configs("audio", "visual")[1])
    samples = node_samples(node, "train", node.modalities)
    model = MultimodalModel(federation.spec, [federation.data.modalities[1]])
    model.load_state_dict(to_state_dict(task.arrays))
    settings = read_section(TrainingConfig, task.config)
    assert (method_of(task), settings.lr) == (federation.config.method, 0.1)
    result = train(
        model, samples, federation.config.method, settings, 1, 1, Received(task.dominance)
    )
    trained = to_arrays(model.state_dict())
    assert update.arrays.keys() == trained.keys()
    assert all((update.arrays[name] == trained[name]).all() for name in trained)
    assert update.num_examples == len(samples)
    assert update.loss_sum == pytest.approx(result.loss_sum)


def test_the_servers_method_counts_not_the_nodes(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(node_configs("audio+visual"), method="fedcmi", kappa=0.5)
    messages = list(
        federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    assert method_of(wire.read_task(messages[0])) == federation.config.method
    grid.contexts[1001].run_config.update({"method": "fedavg", "kappa": "default", "lr": 9.0})
    reply = next(iter(grid.send_and_receive(messages)))
    assert not reply.has_error()
    metrics = reply.content["metrics"]
    assert {key for key in metrics if key.startswith("loss-sum.")} == {
        "loss-sum.fused",
        "loss-sum.self",
    }
    assert "class-count.audio" in metrics


def test_statistics_count_the_nodes_own_samples(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(node_configs("audio+visual"))
    messages = list(
        federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    metrics = next(iter(grid.send_and_receive(messages))).content["metrics"]
    whole = node_of(dict(federation.config.raw), node_configs("audio+visual")[0])
    samples = node_samples(whole, "train", whole.modalities)
    expected = np.bincount(samples.labels[samples.rows], minlength=10).tolist()
    assert metrics["num-examples"] == len(samples) == sum(expected)
    assert metrics["class-count.audio"] == metrics["class-count.visual"] == expected


def test_training_leaves_torchs_global_generator_alone(federate: Callable[..., Parts]) -> None:
    """Everything random comes from the run's seed.

    What a node does must not depend on what ran before it.
    """
    federation, grid, arrays = federate(node_configs("audio+visual"))
    messages = list(
        federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid)
    )
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        reply = next(iter(grid.send_and_receive(messages)))
        results.append([array.numpy().tobytes() for array in reply.content["arrays"].values()])
    assert results[0] == results[1]
