"""The message codec: every record and key, both directions.

Records of a message by name (S -> N: server to node, N -> S: its reply)::

    query     S -> N  config: server-round
              N -> S  node: modalities, partition-id
    train     S -> N  arrays, layout, config: server-round, modalities, dominant, temperature.<m>, wire-dtype,
                                       hyperparameters
              N -> S  arrays, layout, metrics: num-examples, num-examples.<m>, seconds, loss-sum.<term>,
                                               loss-count.<term>, class-probability-sum.<m>, class-count.<m>
    evaluate  S -> N  as train
              N -> S  metrics: num-examples, correct.<prediction>, count.<prediction>, bin-correct.<prediction>,
                               bin-count.<prediction>, bin-confidence.<prediction>

    train, both ways, where the method has something of its own: method-arrays, method-layout

num-examples.<m> says how many of the samples have modality m; without it, all of them have. ``arrays`` holds one flat
array per parameter group and dtype ("audio/float32"); ``layout`` holds, per group, the JSON list of [name, dtype,
shape] that the flat arrays are cut by (``packing.py``). A node narrows its ``arrays`` as the config's wire-dtype says.
``method-arrays`` are never narrowed: sums over samples and differences have other ranges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.types import AnyArray, ClassStats, Modality
from fedcmi_flwr.wire.checks import (
    check_arrays,
    check_counts,
    check_finite,
    check_losses,
    check_names,
    check_stats,
    examples_with,
    numbers,
    numbers_below,
    sample_count,
    seconds_taken,
    whole_numbers,
)
from fedcmi_flwr.wire.packing import WireError, layout_groups, pack, to_state_dict, unpack

LARGEST_PARTITION_ID = 2**31 - 1
EXAMPLES_OF = "num-examples."
"""Start of the keys of samples that have a modality."""


def content_bytes(message: Message, arrays_alone: bool = False) -> int:
    """Return the size of a message's content in bytes: array data and serialised records, without transport.

    Flower's own ``count_bytes`` raises on a ConfigRecord that holds an empty string.
    """
    if not message.has_content():
        return 0
    records = list(message.content.values())  # its array_records would tie the message up in a cycle of references
    arrays = [record for record in records if isinstance(record, ArrayRecord)]
    others = [] if arrays_alone else [record for record in records if not isinstance(record, ArrayRecord)]
    return sum(record.count_bytes() for record in arrays) + sum(len(record.deflate()) for record in others)


@dataclass(frozen=True)
class NodeInfo:
    """What a node says about itself."""

    modalities: tuple[Modality, ...]
    partition_id: int


def query_message(node_id: int, server_round: int) -> Message:
    """Ask a node which modalities it owns."""
    content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
    return Message(content, dst_node_id=node_id, message_type="query")


def query_reply(message: Message, info: NodeInfo) -> Message:
    """Answer a query (on the node)."""
    node = ConfigRecord({"modalities": list(info.modalities), "partition-id": info.partition_id})
    return Message(RecordDict({"node": node}), reply_to=message)


def read_query_reply(message: Message, modalities: Sequence[Modality]) -> NodeInfo:
    """Check a node's answer: known modalities, at least one, and a partition id.

    Parameters
    ----------
    message
        The reply.
    modalities
        All modalities of the federation.

    Returns
    -------
    The node's modalities in the federation's order, and its partition id.

    Raises
    ------
    WireError
        Anything else.
    """
    node = _record(message, "node", ConfigRecord)
    names, partition = node.get("modalities"), node.get("partition-id")
    if not isinstance(names, list) or not names or not set(names) <= set(modalities):
        raise WireError(f"node: modalities = {names!r}, need one or more of {list(modalities)}.")
    if not isinstance(partition, int) or isinstance(partition, bool) or not 0 <= partition <= LARGEST_PARTITION_ID:
        raise WireError(f"node: partition-id = {partition!r}, need an integer from 0 (to {LARGEST_PARTITION_ID}).")
    return NodeInfo(tuple(name for name in modalities if name in names), partition)


@dataclass(frozen=True)
class Task:
    """What a train or evaluate message asks of a node."""

    arrays: dict[str, AnyArray]
    """Name -> array of the groups that this node can use."""
    groups: dict[str, tuple[str, ...]]
    """Group -> names."""
    config: dict[str, Any]
    """Hyperparameters by configuration key, and all that the user put into Flower's train_config."""
    server_round: int
    """From 1."""
    modalities: tuple[Modality, ...]
    """All modalities of the federation, in the order of the fusion slots."""
    dominance: Dominance
    """The server's decision; its dominant modality is None while nobody teaches."""
    from_method: dict[str, AnyArray] = field(default_factory=dict)
    """What the method's state on the server has for this node."""

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The arrays as tensors, for ``model.load_state_dict``."""
        return to_state_dict(self.arrays)


def task_message(
    node_id: int,
    message_type: str,
    packed: tuple[ArrayRecord, ConfigRecord],
    config: Mapping[str, Any],
    modalities: Sequence[Modality],
    dominance: Dominance,
    from_method: Mapping[str, AnyArray] | None = None,
    wire_dtype: str = "float32",
) -> Message:
    """Build a train or evaluate message.

    Parameters
    ----------
    node_id
        Receiver.
    message_type
        Flower's "train" or "evaluate".
    packed
        The ``arrays`` and ``layout`` records of the groups that the node can use, from ``packing.pack``.
    config
        Hyperparameters and ``server-round``.
    modalities
        All modalities of the federation.
    dominance
        The server's decision; the temperatures of groups that the node can use go along.
    from_method
        What the method's state on the server has for this node.
    wire_dtype
        What the node's float32 arrays are to travel in.

    Returns
    -------
    The message.
    """
    arrays, layout = packed
    values: dict[str, Any] = {**config, "modalities": list(modalities), "dominant": dominance.dominant or ""}
    values["wire-dtype"] = wire_dtype
    for name, temperature in dominance.temperature.items():
        if name in layout:
            values[f"temperature.{name}"] = temperature.tolist()
    content = RecordDict({"arrays": arrays, "layout": layout, "config": ConfigRecord(values)})
    _add_method_arrays(content, from_method or {})
    return Message(content, dst_node_id=node_id, message_type=message_type)


def read_task(message: Message) -> Task:
    """Decode a train or evaluate message (on the node).

    Parameters
    ----------
    message
        What the node received.

    Returns
    -------
    The task.

    Raises
    ------
    WireError
        The message was not made by :func:`task_message`.
    """
    packed, layout = _record(message, "arrays", ArrayRecord), _record(message, "layout", ConfigRecord)
    config = {key: v for key, v in _record(message, "config", ConfigRecord).items() if key != "wire-dtype"}
    arrays, groups = unpack(packed, layout)
    try:
        modalities, server_round = config.pop("modalities"), config.pop("server-round")
        dominant = config.pop("dominant") or None
    except KeyError as error:
        raise WireError(f"config: key {error} is missing; was this message made by the FedCMI strategy?") from error
    prefix = "temperature."
    temperature = {
        key.removeprefix(prefix): torch.tensor(config.pop(key)) for key in list(config) if key.startswith(prefix)
    }
    dominance = Dominance(dominant, {}, temperature)
    return Task(arrays, groups, config, server_round, tuple(modalities), dominance, _method_arrays(message))


@dataclass(frozen=True)
class NodeUpdate:
    """A node's reply to a train message."""

    arrays: Mapping[str, AnyArray]
    num_examples: int
    """Training samples of the node."""
    loss_sum: dict[str, float]
    """Loss term -> sum over samples and epochs, in nats."""
    loss_count: dict[str, int]
    """Loss term -> number of samples in the sum."""
    stats: ClassStats | None
    """Class statistics on the received model; None where the method needs none."""
    from_method: Mapping[str, AnyArray] = field(default_factory=dict)
    """What the method's part on the node has for its part on the server."""
    modality_examples: Mapping[Modality, int] = field(default_factory=dict)
    """Of ``num_examples``, those that have a modality; a modality that is not here is one that all of them have."""
    seconds: float | None = None
    """That training took on the node; None where it does not say."""

    def examples_of(self, group: str) -> int:
        """Return n_{k,m}, on how many samples the node trained a parameter group; the shared group on all of them."""
        return self.modality_examples.get(group, self.num_examples)


def train_reply(
    message: Message,
    arrays: Mapping[str, AnyArray],
    num_examples: int,
    stats: ClassStats | None = None,
    loss_sum: Mapping[str, float] | None = None,
    loss_count: Mapping[str, int] | None = None,
    from_method: Mapping[str, AnyArray] | None = None,
    modality_examples: Mapping[Modality, int] | None = None,
    seconds: float | None = None,
) -> Message:
    """Answer a train message with the same parameter groups (on the node).

    Parameters
    ----------
    message
        The message to answer.
    arrays
        Trained arrays by name, at least those that were sent.
    num_examples
        Training samples of the node, 1 or more.
    stats
        Class statistics on the received model.
    loss_sum
        Loss term -> sum over samples and epochs.
    loss_count
        Loss term -> number of samples in the sum.
    from_method
        What the method's part on the node has for its part on the server.
    modality_examples
        How many of the samples have a modality; it may be left out for those that all of them have.
    seconds
        That training took, without what comes before and after it.

    Returns
    -------
    The reply.

    Raises
    ------
    WireError
        An array that was sent is missing, or holds a number beyond the range that it travels in.
    """
    wire_dtype = str(_record(message, "config", ConfigRecord).get("wire-dtype", "float32"))
    packed, layout = pack(arrays, layout_groups(_record(message, "layout", ConfigRecord)), wire_dtype)
    metrics: dict[str, Any] = {"num-examples": num_examples} | ({} if seconds is None else {"seconds": seconds})
    fewer = {name: count for name, count in (modality_examples or {}).items() if count < num_examples}
    metrics |= {f"{EXAMPLES_OF}{name}": count for name, count in fewer.items()}
    metrics |= {f"loss-sum.{name}": float(value) for name, value in (loss_sum or {}).items()}
    metrics |= {f"loss-count.{name}": int(value) for name, value in (loss_count or {}).items()}
    if stats is not None:
        metrics |= {f"class-probability-sum.{name}": v.tolist() for name, v in stats.probability_sum.items()}
        metrics |= {f"class-count.{name}": v.tolist() for name, v in stats.count.items()}
    content = RecordDict({"arrays": packed, "layout": layout, "metrics": MetricRecord(metrics)})
    _add_method_arrays(content, from_method or {})
    return Message(content, reply_to=message)


def read_train_reply(
    message: Message,
    sent: Mapping[str, AnyArray],
    measured: Iterable[Modality],
    num_classes: int,
) -> NodeUpdate:
    """Check and decode a reply to a train message.

    Parameters
    ----------
    message
        The reply.
    sent
        The arrays that the node was sent.
    measured
        Modalities whose class statistics the reply must hold; empty when the method needs none.
    num_classes
        C.

    Returns
    -------
    The update; every array has the name, shape and dtype of what was sent, and finite values.

    Raises
    ------
    WireError
        Missing or extra arrays, another shape or dtype, NaN or Inf, a count or time out of range, statistics out of
        range or of more samples than there are.
    """
    arrays, _ = unpack(_record(message, "arrays", ArrayRecord), _record(message, "layout", ConfigRecord))
    check_arrays(arrays, sent)
    metrics = _record(message, "metrics", MetricRecord)
    num_examples = sample_count(metrics)
    modality_examples = examples_with(metrics, EXAMPLES_OF, num_examples)
    names = list(measured)
    stats = ClassStats(
        {name: numbers(metrics, f"class-probability-sum.{name}", num_classes) for name in names},
        {name: whole_numbers(metrics, f"class-count.{name}", num_classes) for name in names},
    )
    check_stats(stats, num_examples, modality_examples)
    sums, counts = numbers_below(metrics, "loss-sum."), numbers_below(metrics, "loss-count.")
    check_losses(sums, counts)
    loss_count = {name: int(value) for name, value in counts.items()}
    from_method = _method_arrays(message)
    check_finite(from_method)
    stats_or_none, seconds = stats if names else None, seconds_taken(metrics)
    return NodeUpdate(arrays, num_examples, sums, loss_count, stats_or_none, from_method, modality_examples, seconds)


def evaluate_reply(message: Message, counts: Mapping[str, Counts], num_examples: int) -> Message:
    """Answer an evaluate message with correct predictions and samples per class and bin (on the node)."""
    metrics: dict[str, Any] = {"num-examples": num_examples}
    for name, found in counts.items():
        metrics[f"correct.{name}"] = found.correct.tolist()
        metrics[f"count.{name}"] = found.count.tolist()
        metrics[f"bin-correct.{name}"] = found.bins.correct.tolist()
        metrics[f"bin-count.{name}"] = found.bins.count.tolist()
        metrics[f"bin-confidence.{name}"] = found.bins.confidence.tolist()
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def read_evaluate_reply(message: Message, num_classes: int) -> dict[str, Counts]:
    """Check and decode a reply to an evaluate message.

    Parameters
    ----------
    message
        The reply.
    num_classes
        C.

    Returns
    -------
    Prediction -> correct predictions and samples per class and bin.

    Raises
    ------
    WireError
        Lists of another length than the number of classes or bins, or what :func:`reply_checks.check_counts` refuses.
    """
    metrics = _record(message, "metrics", MetricRecord)
    num_examples, counts = sample_count(metrics), {}
    names = [key.removeprefix("correct.") for key in metrics if key.startswith("correct.")]
    check_names(names)
    if not names:
        raise WireError(f"metrics: no 'correct.<prediction>' among {sorted(metrics)}.")
    for name in names:
        correct, count = (whole_numbers(metrics, f"{part}.{name}", num_classes) for part in ("correct", "count"))
        counts[name] = Counts(correct, count, _bins(metrics, name))
        check_counts(name, counts[name], num_examples)
    return counts


def _bins(metrics: MetricRecord, name: str) -> Bins:
    """Return one prediction's samples by confidence; a node may leave them out, all three lists together."""
    if not any(f"{part}.{name}" in metrics for part in ("bin-count", "bin-correct", "bin-confidence")):
        return Bins.none()
    return Bins(
        whole_numbers(metrics, f"bin-count.{name}", NUM_BINS),
        whole_numbers(metrics, f"bin-correct.{name}", NUM_BINS),
        numbers(metrics, f"bin-confidence.{name}", NUM_BINS),
    )


def _add_method_arrays(content: RecordDict, arrays: Mapping[str, AnyArray]) -> None:
    """Put a method's own arrays into a message; nothing where it has none."""
    if arrays:
        content["method-arrays"], content["method-layout"] = pack(arrays, {"method": tuple(arrays)})


def _method_arrays(message: Message) -> dict[str, AnyArray]:
    if "method-arrays" not in message.content and "method-layout" not in message.content:
        return {}
    packed, layout = _record(message, "method-arrays", ArrayRecord), _record(message, "method-layout", ConfigRecord)
    arrays, _ = unpack(packed, layout)
    return arrays


def _record(message: Message, name: str, kind: type[Any]) -> Any:  # noqa: ANN401
    record = message.content.get(name)
    if not isinstance(record, kind):
        raise WireError(f"record {name!r} is {type(record).__name__}, need {kind.__name__}.")
    return record
