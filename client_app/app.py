"""The ClientApp: decode -> train or evaluate -> encode."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from client_app.personal import personal_name, personalise
from client_app.train import Received, train
from data_prep.builtin import locate
from fedcmi_flwr import wire
from fedcmi_flwr.config.node import NodeConfig, read_node_config
from fedcmi_flwr.config.sections import DataConfig, TrainingConfig, ViewConfig, read_section
from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec, read_spec
from fedcmi_flwr.data.views import views_from
from fedcmi_flwr.evaluation.counts import evaluate
from fedcmi_flwr.methods import Method, method_from
from fedcmi_flwr.models import pretrained
from fedcmi_flwr.models.building import model_spec
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.placement import choose_device, place
from fedcmi_flwr.run_config import RunConfig, read_run_config
from fedcmi_flwr.simulation.node_memory import DIRECTORY, keep_file_memory, read_file_memory
from fedcmi_flwr.simulation.own_distribution import draw_by_own_distribution
from fedcmi_flwr.simulation.ownership import deal_modalities
from fedcmi_flwr.simulation.partitions import own_samples, partition
from fedcmi_flwr.types import Modality
from fedcmi_flwr.wire.packing import to_arrays, to_state_dict

MEMORY = "method-memory"
"""Record of the node's state that holds what the method keeps between the node's turns."""

app = ClientApp()
logger = logging.getLogger("flwr.fedcmi")


@dataclass(frozen=True)
class Node:
    """A node as its configurations describe it."""

    run: RunConfig
    me: NodeConfig
    directory: Path
    modalities: tuple[Modality, ...]
    """What the node owns of the run's modalities."""


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which modalities this node has samples of, once it is clear that they are enough to train on."""
    node = read_node(context)
    samples = node_samples(node, "train", node.modalities)
    return wire.query_reply(message, wire.NodeInfo(samples.seen_modalities, node.me.partition_id))


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the received groups on this node's samples."""
    node, task = read_node(context), wire.read_task(message)
    model = receive(node, task)
    check_unchanged(node_samples(node, "train", node.modalities).seen_modalities, model.owned)
    samples = as_the_federation(node_samples(node, "train", model.owned), task)
    settings = read_section(TrainingConfig, task.config)
    received = Received(task.dominance, to_state_dict(task.from_method), recall(context, node, task.server_round))
    begin = time.perf_counter()
    result = train(model, samples, method_of(task), settings, task.server_round, node.me.partition_id, received)
    seconds = time.perf_counter() - begin
    remember(context, node, task.server_round, result.kept.memory)
    arrays, to_server = to_arrays(model.trained_state()), to_arrays(result.kept.to_server)
    losses, counts = (result.loss_sum, result.loss_count), samples.modality_counts
    return wire.train_reply(message, arrays, len(samples), result.stats, *losses, to_server, counts, seconds)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the received groups on this node's test samples, and beside them heads of its own if it is to."""
    node, task = read_node(context), wire.read_task(message)
    model = receive(node, task)
    samples = as_the_federation(node_samples(node, "test", model.owned), task)
    method, device = method_of(task), next(model.parameters()).device
    counts = evaluate(model, samples.evaluation_batches(model.spec.modalities, device), method.votes)
    epochs = node.run.evaluation.personal_epochs
    if epochs > 0:
        own = as_the_federation(node_samples(node, "train", model.owned), task)
        settings = read_section(TrainingConfig, task.config)
        personal = personalise(model, own, settings, epochs, task.server_round, node.me.partition_id)
        after = evaluate(personal, samples.evaluation_batches(model.spec.modalities, device), method.votes)
        counts |= {personal_name(name): found for name, found in after.items()}
    return wire.evaluate_reply(message, counts, len(samples))


def read_node(context: Context) -> Node:
    """Check both configurations and find the node's data."""
    run, me = read_run_config(context.run_config), read_node_config(context.node_config)
    torch.set_num_threads(run.machine.torch_threads)
    directory = locate(me.data or run.data.data)
    stored = read_spec(directory).modality_names
    owned = me.modalities
    if owned is None:
        owned = deal_modalities(stored, run.data, me.num_partitions or 1, run.training.seed)[me.partition_id]
    wanted = run.data.modalities.split("+") if run.data.modalities else owned
    used = tuple(name for name in owned if name in wanted)
    if not used:
        raise DataError(f"this node owns {list(owned)}, none of the run's modalities {wanted}: it takes no part.")
    return Node(run, me, directory, used)


@lru_cache(maxsize=64)
def _open(directory: Path, split: str, modalities: tuple[Modality, ...], written: int) -> Samples:
    """Open a split; cached until it is prepared again, since the nodes of a simulation's process share directories."""
    return load_split(directory, split, modalities)


def node_samples(node: Node, split: str, modalities: tuple[Modality, ...]) -> Samples:
    """Return the node's samples of a split: its partition of the training split, some of another."""
    written = (node.directory / "dataset.json").stat().st_mtime_ns
    me, run = node.me, node.run
    if me.num_partitions is not None and split == "train":
        which = (me.num_partitions, me.partition_id, run.training.seed)
        return _partition(node.directory, modalities, written, run.data, *which)
    samples = _open(node.directory, split, modalities, written)
    if me.num_partitions is None:
        return own_samples(samples, run.data, split)
    if run.evaluation.node_test == "own-distribution":
        own = node_samples(node, "train", modalities)
        labels, like = samples.labels[samples.rows], own.labels[own.rows]
        return samples.select(samples.rows[draw_by_own_distribution(labels, like, run.training.seed, me.partition_id)])
    return samples.select(samples.rows[me.partition_id :: me.num_partitions])


@lru_cache(maxsize=1024)
def _partition(
    directory: Path, modalities: tuple[Modality, ...], written: int, data: DataConfig, *which: int
) -> Samples:
    """Return one partition of a training split; kept, since to find it again takes as long as the split is large."""
    return partition(_open(directory, "train", modalities, written), data, *which)


def check_unchanged(now: Sequence[Modality], sent: Sequence[Modality]) -> None:
    """Raise DataError where a node no longer owns what it said; the server asks a node that raised again."""
    if set(now) != set(sent):
        raise DataError(
            f"this node now has samples of {list(now)}, but said {list(sent)} when it was asked; it takes no part "
            "until it is asked again."
        )


def as_the_federation(samples: Samples, task: wire.Task) -> Samples:
    """Return the samples in the federation's views, normalised with its mean and std instead of this device's own.

    Parameters
    ----------
    samples
        The node's samples.
    task
        The message's task; it holds the federation's description of each modality, and its views.

    Returns
    -------
    The same samples.

    Raises
    ------
    DataError
        A modality of another kind or shape than the federation's.
    """
    inputs = tuple(ModalitySpec.from_json(task.config[f"input.{own.name}"]) for own in samples.modalities)
    for own, common in zip(samples.modalities, inputs, strict=True):
        if (own.kind, own.shape) != (common.kind, common.shape):
            raise DataError(
                f"modality {own.name!r}: this node has {own.kind} samples of shape {list(own.shape)}, the federation "
                f"{common.kind} of {list(common.shape)}; prepare the node's data with the federation's settings."
            )
    return replace(samples, modalities=inputs, views=views_from(read_section(ViewConfig, task.config)))


def receive(node: Node, task: wire.Task) -> MultimodalModel:
    """Load the received arrays into a model with the branches that this node was sent."""
    data = read_spec(node.directory)
    if list(data.classes) != task.config["classes"]:
        raise DataError(
            f"{node.directory}: classes {list(data.classes)}, but the federation's are {task.config['classes']}; "
            "prepare the node's data with the same classes in the same order."
        )
    options = {name: json.loads(task.config.get(f"options.{name}", "{}")) for name in task.modalities}
    spec = model_spec(node.run.model, method_of(task), task.modalities, len(data.classes), options)
    model = _model(spec, [modality for modality in data.modalities if modality.name in task.groups])
    model.load_trained_state(task.state_dict)
    load_frozen(model, node, task)
    device = choose_device(node.me.device or node.run.machine.device)
    place(model, device, node.run.machine.precision)
    logger.info(
        "round %d: partition %d holds %s (%d parameters to train) on %s",
        task.server_round,
        node.me.partition_id,
        ", ".join(task.groups),
        sum(parameter.numel() for parameter in model.trained_parameters().values()),
        device,
    )
    return model


_models: dict[str, MultimodalModel] = {}
"""The model of this process's last task, by its description: the nodes of a simulation's process take turns with it."""


def _model(spec: ModelSpec, inputs: Sequence[ModalitySpec]) -> MultimodalModel:
    """Return a model into which everything has yet to be loaded; to build one anew takes longer than that."""
    key = repr((spec, inputs))
    if key not in _models:
        _models.clear()
        _models[key] = MultimodalModel(spec, inputs)
    model = _models[key].train()
    model.zero_grad()
    return model


def load_frozen(model: MultimodalModel, node: Node, task: wire.Task) -> None:
    """Load the frozen trunks from this node's own directories, and check that they are the server's."""
    frozen = [name for name in model.owned if name in model.spec.frozen]
    run, own = (pretrained.read_locations(text) for text in (node.run.model.pretrained, node.me.pretrained))
    locations = {**run, **own}
    pretrained.check_frozen(locations, frozen)
    checksums = pretrained.load_trunks(model, {name: locations[name] for name in frozen})
    for name, checksum in checksums.items():
        pretrained.check_same(name, (checksum, locations[name]), task.config[f"frozen.{name}"])


def recall(context: Context, node: Node, server_round: int) -> dict[str, torch.Tensor]:
    """Return what the method kept on this node in its last turn of this run."""
    if node.run.checkpoints.node_memory == "run-dir":
        return read_file_memory(Path(node.run.run_dir) / DIRECTORY, node.me.partition_id, server_round)
    return read_memory(context)


def read_memory(context: Context) -> dict[str, torch.Tensor]:
    """Return what the method kept in Flower's context."""
    record = context.state.get(MEMORY)
    return to_state_dict(
        {key: array.numpy() for key, array in record.items()} if isinstance(record, ArrayRecord) else {}
    )


def remember(context: Context, node: Node, server_round: int, memory: Mapping[str, torch.Tensor]) -> None:
    """Keep arrays on this node until its next turn."""
    if node.run.checkpoints.node_memory == "run-dir":
        keep_file_memory(Path(node.run.run_dir) / DIRECTORY, node.me.partition_id, server_round, memory)
    elif memory:
        context.state[MEMORY] = ArrayRecord({key: Array(value) for key, value in to_arrays(memory).items()})


def method_of(task: wire.Task) -> Method:
    """Return the method that the server named, with the hyperparameters that it sent."""
    return method_from(task.config)
