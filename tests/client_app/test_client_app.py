"""The ClientApp with real data: what a node says, is sent, trains and gives back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict

from client_app.app import app, method_of, node_samples, read_node
from client_app.train import Received, train
from fedcmi_flwr import wire
from fedcmi_flwr.config.sections import TrainingConfig, read_section
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.wire.packing import to_arrays, to_state_dict
from server_app.launch import start as launch
from server_app.run.directory import RunDirectory
from server_app.run.federation import Federation

Parts = tuple[Federation, LocalGrid, ArrayRecord]


@pytest.fixture
def federate(tmp_path: Path, av_digits_dir: Path) -> Callable[..., Parts]:
    """Return a maker of a federation on av-digits with given node-configs, with its initial arrays."""

    def make(nodes: list[dict[str, Any]], **changes: Any) -> Parts:  # noqa: ANN401
        options = {"data": str(av_digits_dir), "local-epochs": 1, "fraction-train": 1.0, "min-available-nodes": 1}
        raw = launch.resolve(None, {**options, **{key.replace("_", "-"): value for key, value in changes.items()}}, [])
        federation = Federation(launch.read_run_config(raw), RunDirectory(tmp_path / "run"))
        arrays = {name: Array(value) for name, value in to_arrays(federation.model.state_dict()).items()}
        return federation, LocalGrid(app, nodes, raw), ArrayRecord(arrays)

    return make


def _nodes(*modalities: str, parts: int = 12) -> list[dict[str, Any]]:
    return [{"partition-id": i, "num-partitions": parts, "modalities": text} for i, text in enumerate(modalities)]


def _node(raw: dict[str, Any], node_config: dict[str, Any]) -> Any:  # noqa: ANN401
    return read_node(Context(1, 1, node_config, RecordDict(), raw))


def test_a_unimodal_node_moves_about_half_the_bytes(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(_nodes("audio+visual", "audio", "visual"))
    strategy = federation.strategy
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid))
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


def test_a_node_trains_what_the_library_trains(federate: Callable[..., Parts]) -> None:
    """The app decodes, calls ``train`` with the server's settings, and encodes: nothing else happens to the weights."""
    federation, grid, arrays = federate(_nodes("audio+visual", "visual"), method="fedcmi", mu=0.5, lr=0.1)
    strategy = federation.strategy
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid))
    reply = list(grid.send_and_receive(messages))[1]
    task = wire.read_task(messages[1])
    update = wire.read_train_reply(reply, task.arrays, ["visual"], 10)
    node = _node(dict(federation.config.raw), _nodes("audio", "visual")[1])
    samples = node_samples(node, "train", node.modalities)
    model = MultimodalModel(federation.spec, [federation.data.modalities[1]])
    model.load_state_dict(to_state_dict(task.arrays))
    settings = read_section(TrainingConfig, task.config)
    assert (method_of(task), settings.lr) == (federation.config.method, 0.1)
    result = train(model, samples, federation.config.method, settings, 1, 1, Received(task.dominance))
    trained = to_arrays(model.state_dict())
    assert update.arrays.keys() == trained.keys()
    assert all((update.arrays[name] == trained[name]).all() for name in trained)
    assert update.num_examples == len(samples)
    assert update.loss_sum == pytest.approx(result.loss_sum)


def test_the_servers_method_counts_not_the_nodes(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(_nodes("audio+visual"), method="fedcmi", kappa=0.5)
    messages = list(federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid))
    assert method_of(wire.read_task(messages[0])) == federation.config.method
    grid.contexts[1001].run_config.update({"method": "fedavg", "kappa": "default", "lr": 9.0})
    reply = next(iter(grid.send_and_receive(messages)))
    assert not reply.has_error()
    metrics = reply.content["metrics"]
    assert {key for key in metrics if key.startswith("loss-sum.")} == {"loss-sum.fused", "loss-sum.self"}
    assert "class-count.audio" in metrics


def test_statistics_count_the_nodes_own_samples(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(_nodes("audio+visual"))
    messages = list(federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid))
    metrics = next(iter(grid.send_and_receive(messages))).content["metrics"]
    whole = _node(dict(federation.config.raw), _nodes("audio+visual")[0])
    samples = node_samples(whole, "train", whole.modalities)
    expected = np.bincount(samples.labels[samples.rows], minlength=10).tolist()
    assert metrics["num-examples"] == len(samples) == sum(expected)
    assert metrics["class-count.audio"] == metrics["class-count.visual"] == expected


def test_nodes_share_the_test_split_out(federate: Callable[..., Parts]) -> None:
    federation, grid, arrays = federate(
        [{"partition-id": part, "num-partitions": 3} for part in range(3)], fraction_evaluate=1.0
    )
    strategy = federation.strategy
    messages = list(strategy.configure_evaluate(1, arrays, ConfigRecord(federation.task_config()), grid))
    replies = list(grid.send_and_receive(messages))
    assert [sum(reply.content["metrics"]["count.fused"]) for reply in replies] == [167, 167, 166]
    metrics = strategy.aggregate_evaluate(1, replies)
    central = federation.evaluate(0, arrays)
    assert metrics is not None
    assert dict(metrics) == pytest.approx(dict(central))


def test_nodes_evaluate_on_samples_of_their_own_class_shares(federate: Callable[..., Parts]) -> None:
    """The counts are those of the training samples, scaled so that one class gives all of its test samples."""
    nodes = [{"partition-id": part, "num-partitions": 3} for part in range(3)]
    federation, grid, arrays = federate(
        nodes, fraction_evaluate=1.0, node_test="own-distribution", partition="dirichlet", dirichlet_alpha=0.3
    )
    messages = list(federation.strategy.configure_evaluate(1, arrays, ConfigRecord(federation.task_config()), grid))
    every = np.bincount(federation.test_samples.labels, minlength=10)
    for node, reply in zip(nodes, grid.send_and_receive(messages), strict=True):
        own = node_samples(_node(dict(federation.config.raw), node), "train", ("audio", "visual"))
        trained = np.bincount(own.labels[own.rows], minlength=10)
        scale = min(every[trained > 0] / trained[trained > 0])
        assert reply.content["metrics"]["count.fused"] == [round(value) for value in scale * trained]


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_simulated_node_owns_what_the_ratio_deals_it(federate: Callable[..., Parts], ratio: float) -> None:
    federation, grid, _ = federate(
        [{"partition-id": part, "num-partitions": 4} for part in range(4)], multimodal_ratio=ratio
    )
    chosen = federation.strategy.nodes.sample(grid, 1, 1.0, 1, "train")
    owned = [federation.strategy.nodes.known[node].modalities for node in chosen]
    assert sum(len(names) == 2 for names in owned) == 4 * ratio
    assert sorted(sum(name in names for names in owned) for name in ("audio", "visual")) == [2 + 2 * ratio] * 2


def test_a_device_with_data_of_its_own_trains_on_all_of_it(federate: Callable[..., Parts], av_digits_dir: Path) -> None:
    node = {"partition-id": 3, "modalities": "visual", "data": str(av_digits_dir)}
    federation, _, _ = federate(_nodes("audio"))
    alone = _node({**federation.config.raw, "data": "/nowhere"}, node)
    assert alone.modalities == ("visual",)
    assert [len(node_samples(alone, split, alone.modalities)) for split in ("train", "test")] == [1200, 500]


def test_a_node_without_its_data_says_so_in_its_reply(federate: Callable[..., Parts]) -> None:
    _, grid, _ = federate(_nodes("audio"))
    grid.contexts[1001].node_config["data"] = "/nowhere"
    reply = next(iter(grid.send_and_receive([wire.query_message(1001, 1)])))
    assert reply.has_error()
    assert "'/nowhere': no such directory" in str(reply.error.reason)


def test_training_leaves_torchs_global_generator_alone(federate: Callable[..., Parts]) -> None:
    """Everything random comes from the run's seed; what a node does must not depend on what ran before it."""
    federation, grid, arrays = federate(_nodes("audio+visual"))
    messages = list(federation.strategy.configure_train(1, arrays, ConfigRecord(federation.task_config()), grid))
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        reply = next(iter(grid.send_and_receive(messages)))
        results.append([array.numpy().tobytes() for array in reply.content["arrays"].values()])
    assert results[0] == results[1]


@pytest.mark.parametrize("method", ["fedcmi-plus", "moon"])
def test_nodes_that_take_turns_on_a_process_do_not_meet(
    federate: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The model's object is kept from node to node: they reply the same bits as with one of their own."""
    replies = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr("client_app.app._models", Forgetful())
        federation, grid, arrays = federate(_nodes("audio+visual", "audio+visual", "audio"), method=method)
        for server_round in (1, 2):
            task = ConfigRecord(federation.task_config())
            messages = list(federation.strategy.configure_train(server_round, arrays, task, grid))
            found = [reply.content["arrays"] for reply in grid.send_and_receive(messages)]
        replies.append([{key: array.data for key, array in record.items()} for record in found])
    assert len(replies[0]) == 3
    assert replies[0] == replies[1]


class Forgetful(dict[str, MultimodalModel]):
    """Keeps what it is given once for one look."""

    def __contains__(self, key: object) -> bool:
        """Say that nothing is there."""
        return False
