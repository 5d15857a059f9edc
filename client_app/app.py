"""The ClientApp: decode -> train or evaluate -> encode."""

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.memory import recall, remember
from client_app.model import method_of, receive
from client_app.node import naming_device, read_node
from client_app.personal import keep, personal_name, personalise
from client_app.samples import check_unchanged, node_samples, task_samples
from client_app.stored_features import with_stored_features
from client_app.train import train
from fedcmi_flwr import wire
from fedcmi_flwr.client.begin import Received
from fedcmi_flwr.client.compressing import compress_update, split_memory
from fedcmi_flwr.config.sections import TrainingConfig, read_section
from fedcmi_flwr.data.finite import check_finite
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.evaluation.counts import Counts, evaluate
from fedcmi_flwr.methods import Method
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which modalities this node has samples of, once it is clear that they are enough to train
    on.
    """
    with naming_device(context):
        node = read_node(context)
        samples = node_samples(node, "train", node.modalities)

    return wire.query_reply(
        message,
        wire.NodeInfo(samples.seen_modalities, node.config.partition_id, name=node.config.name),
    )


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the received groups on this node's samples."""
    task = wire.read_task(message)
    node = read_node(context)
    settings = node.own_settings(read_section(TrainingConfig, task.config))
    time_budget = node.time_budget

    check_unchanged(node, task)
    samples = task_samples(node, "train", task)
    method = method_of(task)
    model = receive(node, task, method)

    begin = time.perf_counter()
    seen = with_stored_features(model, samples, node, task)
    memory, residual = split_memory(recall(context, node, task.server_round))
    received = Received(task.dominance, to_state_dict(task.from_method), memory)
    partition, name = node.config.partition_id, str(task.config["method"])

    result = train(
        model, seen, method, settings, task.server_round, partition, received, name, time_budget
    )
    seconds = time.perf_counter() - begin

    trained = to_arrays(model.trained_state())
    compressed, residual = compress_update(task, trained, residual)
    remember(context, node, task.server_round, {**result.kept.memory, **residual})

    return wire.train_reply(
        message,
        trained,
        len(samples),
        result.stats,
        loss_sum=result.loss_sum,
        loss_count=result.loss_count,
        from_method=to_arrays(result.kept.to_server),
        modality_examples=samples.modality_counts,
        seconds=seconds,
        applied=result.applied,
        compressed=compressed,
    )


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the received groups on this node's test samples, and beside them heads of its own if
    it is to.
    """
    task = wire.read_task(message)
    node = read_node(context)

    samples = task_samples(node, "test", task)
    check_finite(samples, "test")  # or they would count as wrong predictions of the model
    method = method_of(task)
    model = receive(node, task, method)
    counts = _evaluated(model, samples, method)

    epochs = node.run.evaluation.personal_epochs
    if epochs > 0:
        settings = read_section(TrainingConfig, task.config)
        training_samples = task_samples(node, "train", task)
        check_finite(training_samples, "train")
        personal = personalise(
            model, training_samples, settings, epochs, task.server_round, node.config.partition_id
        )
        if node.run.evaluation.personal_models == "keep":
            keep(personal, node, samples.modalities, method, task.server_round)

        found = _evaluated(personal, samples, method)
        counts |= {personal_name(name): each for name, each in found.items()}

    return wire.evaluate_reply(message, counts, len(samples))


def _evaluated(model: MultimodalModel, samples: Samples, method: Method) -> dict[str, Counts]:
    """Count the correct predictions of a model on samples in their evaluation views."""
    device = next(model.parameters()).device
    return evaluate(model, samples.evaluation_batches(model.spec.modalities, device), method.votes)
