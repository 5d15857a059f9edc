"""The reply to a train message.

Trained arrays, and the sums and counts that came of the training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedcmi_flwr.methods.applied import Applied
from fedcmi_flwr.types import AnyArray, ClassStats, Modality
from fedcmi_flwr.wire.applied import applied_record, read_applied
from fedcmi_flwr.wire.compression import RECORD as COMPRESSED
from fedcmi_flwr.wire.compression import Compressed, decompressed
from fedcmi_flwr.wire.metrics import (
    LARGEST_SUM,
    MOST_SAMPLES,
    NUM_EXAMPLES,
    free_metrics,
    numbers,
    numbers_below,
    sample_count,
    whole_numbers,
)
from fedcmi_flwr.wire.packing import (
    WireError,
    layout_groups,
    pack,
    pack_plain,
    unpack,
    unpack_plain,
)
from fedcmi_flwr.wire.records import method_arrays, method_records, plain_groups, record
from fedcmi_flwr.wire.tensors import as_arrays

EXAMPLES_OF = "num-examples."
"""Start of the keys of samples that have a modality."""
KNOWN = (
    NUM_EXAMPLES,
    "seconds",
    EXAMPLES_OF,
    "loss-sum.",
    "loss-count.",
    "class-probability-sum.",
    "class-count.",
)
"""Keys that mean something here; other numbers are averaged as they are."""
VARIANCE = "running_var"
"""Last part of the name of batch norm's variance; below 0 its root, and so all that follows, is
NaN."""
MOST_NAMES = 5
"""Of arrays in an error."""
CALLS = (
    "Reply with the names, shapes and dtypes that were sent: train_reply(message, "
    "model.state_dict(), num_examples), or ArrayRecord(model.state_dict()) where the node speaks "
    "'plain'."
)
"""What does it right."""
DIVERGED = "Training diverged on the node: lower its learning rate, or clip its gradients."
"""Where numbers that are not finite come from."""
MOST_SECONDS = 1e9
"""No training takes 30 years."""


@dataclass(frozen=True)
class NodeUpdate:
    """What a node's reply to a train message says."""

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
    """Of ``num_examples``, those that have a modality; one that is not here is one that all
    have."""
    seconds: float | None = None
    """That training took on the node; None where it does not say."""
    applied: Applied | None = None
    """What the node says it did; None where it does not."""
    metrics: Mapping[str, float | list[float]] = field(default_factory=dict)
    """Numbers of the node's own."""

    def examples_of(self, group: str) -> int:
        """Return n_{k,m}: on how many samples a group was trained.

        The shared one on all of them.
        """
        return self.modality_examples.get(group, self.num_examples)


def train_reply(
    message: Message,
    arrays: Mapping[str, AnyArray | torch.Tensor],
    num_examples: int,
    stats: ClassStats | None = None,
    *,
    loss_sum: Mapping[str, float] | None = None,
    loss_count: Mapping[str, int] | None = None,
    from_method: Mapping[str, AnyArray] | None = None,
    modality_examples: Mapping[Modality, int] | None = None,
    seconds: float | None = None,
    applied: Applied | None = None,
    metrics: Mapping[str, float] | None = None,
    compressed: Compressed | None = None,
) -> Message:
    """Answer a train message with the same parameter groups (on the node).

    Parameters
    ----------
    message
        The message to answer.
    arrays
        Trained arrays, or tensors, by name: at least those that were sent.
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
        How many of the samples have a modality; those that all of them have may be left out.
    seconds
        That training took, without what comes before and after it.
    applied
        Which method, and which of its hyperparameters, were at work; the server refuses a reply
        that does not say so, unless the method is plain averaging. ``LocalObjective.reply`` says
        it by itself.
    metrics
        Numbers of your own, which the strategy averages over nodes.
    compressed
        What of the update travels compressed; these arrays do not travel otherwise.

    Returns
    -------
    The reply.

    Raises
    ------
    WireError
        An array that was sent is missing, or holds a number beyond the range that it travels in.
    TypeError
        An array, or one of ``metrics``, of another type.
    """
    said, values = applied_record(applied), as_arrays(arrays)
    for key, number in (metrics or {}).items():
        if not isinstance(number, int | float | list):
            raise TypeError(
                f"metrics: {key!r} is a {type(number).__name__}, need a number; float(...) of a "
                "tensor."
            )

    config = record(message, "config", ConfigRecord)
    groups = plain_groups(config)
    layout = record(message, "layout", ConfigRecord) if groups is None else None
    of_method = method_records(from_method or {})
    content = _packed(
        values, groups or {}, layout, str(config.get("wire-dtype", "float32")), compressed
    )

    found: dict[str, Any] = {NUM_EXAMPLES: num_examples}
    if seconds is not None:
        found["seconds"] = seconds

    for name, count in (modality_examples or {}).items():
        if count < num_examples:
            found[f"{EXAMPLES_OF}{name}"] = count

    found |= {f"loss-sum.{name}": float(total) for name, total in (loss_sum or {}).items()}
    found |= {f"loss-count.{name}": int(count) for name, count in (loss_count or {}).items()}
    if stats is not None:
        sums, counts = stats.probability_sum, stats.count
        found |= {f"class-probability-sum.{name}": row.tolist() for name, row in sums.items()}
        found |= {f"class-count.{name}": row.tolist() for name, row in counts.items()}

    content["metrics"] = MetricRecord(dict(metrics or {}) | found)
    content.update(said)
    content.update(of_method)

    return Message(content, reply_to=message)


def _packed(
    values: Mapping[str, AnyArray],
    plain: Mapping[str, Sequence[str]],
    layout: ConfigRecord | None,
    wire_dtype: str,
    compressed: Compressed | None,
) -> RecordDict:
    """Return the records of the trained arrays, packed as the message that is answered asks for."""
    if layout is None:
        owned = {
            group: names for group, names in plain.items() if any(name in values for name in names)
        }
        return RecordDict({"arrays": pack_plain(values, owned)})

    left_out = compressed.names if compressed is not None else ()
    groups = layout_groups(layout)
    whole = {
        group: [name for name in names if name not in left_out] for group, names in groups.items()
    }
    packed, own_layout = pack(values, whole, wire_dtype)

    small = {COMPRESSED: compressed.record} if compressed is not None else {}

    return RecordDict({"arrays": packed, "layout": own_layout, **small})


def reply_names(message: Message) -> set[str]:
    """Return the names of the arrays in a reply, without reading the arrays."""
    packed, layout = record(message, "arrays", ArrayRecord), message.content.get("layout")
    if not isinstance(layout, ConfigRecord):
        return set(packed)

    return {name for names in layout_groups(layout).values() for name in names}


def read_train_reply(
    message: Message,
    sent: Mapping[str, AnyArray],
    measured: Iterable[Modality],
    num_classes: int,
    weight_key: str = NUM_EXAMPLES,
) -> NodeUpdate:
    """Check and decode a reply to a train message (on the server).

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
    weight_key
        Key of the number of samples.

    Returns
    -------
    The update; every array has the name, shape and dtype of what was sent, and finite values.

    Raises
    ------
    WireError
        Missing or extra arrays, another shape or dtype, NaN or Inf, a count or time out of range,
        statistics out of range or of more samples than there are.
    """
    applied = read_applied(message)
    packed = record(message, "arrays", ArrayRecord)
    metrics = record(message, "metrics", MetricRecord)
    layout = record(message, "layout", ConfigRecord) if "layout" in message.content else None
    from_method = method_arrays(message)
    arrays = unpack_plain(packed) if layout is None else unpack(packed, layout)[0]
    if COMPRESSED in message.content:
        arrays |= decompressed(record(message, COMPRESSED, ArrayRecord), sent)

    num_examples = sample_count(metrics, weight_key)
    examples = numbers_below(metrics, EXAMPLES_OF)
    loss_sum, loss_count = (
        numbers_below(metrics, "loss-sum."),
        numbers_below(metrics, "loss-count."),
    )
    stats = _class_stats(metrics, list(measured), num_classes)
    seconds = metrics.get("seconds")

    _check_arrays(arrays, sent)
    _check_finite("method-arrays", from_method)
    modality_examples = _checked_examples(examples, num_examples)
    _check_losses(loss_sum, loss_count)
    if stats is not None:
        _check_stats(stats, num_examples, modality_examples)

    return NodeUpdate(
        arrays=arrays,
        num_examples=num_examples,
        loss_sum=loss_sum,
        loss_count={name: int(count) for name, count in loss_count.items()},
        stats=stats,
        from_method=from_method,
        modality_examples=modality_examples,
        seconds=_checked_seconds(seconds),
        applied=applied,
        metrics=free_metrics(metrics, (*KNOWN, weight_key)),
    )


def _class_stats(
    metrics: MetricRecord, measured: list[Modality], num_classes: int
) -> ClassStats | None:
    """Return the class statistics of the modalities that must be there; None where none must."""
    if not measured:
        return None

    sums = {
        name: numbers(metrics, f"class-probability-sum.{name}", num_classes) for name in measured
    }
    counts = {name: whole_numbers(metrics, f"class-count.{name}", num_classes) for name in measured}

    return ClassStats(sums, counts)


def _check_arrays(arrays: Mapping[str, AnyArray], sent: Mapping[str, AnyArray]) -> None:
    """Raise WireError unless names, shapes and dtypes are those sent, and the values can be."""
    missing, extra = sorted(set(sent) - set(arrays)), sorted(set(arrays) - set(sent))
    if missing or extra:
        raise WireError(
            f"arrays: missing {missing[:MOST_NAMES]}, extra {extra[:MOST_NAMES]} ({len(missing)} "
            f"and {len(extra)} in all). {CALLS}"
        )

    for name, array in arrays.items():
        expected = sent[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise WireError(
                f"arrays: {name!r} is {array.dtype} {list(array.shape)}, expected {expected.dtype} "
                f"{list(expected.shape)}. {CALLS}"
            )
        if name.endswith(VARIANCE) and (np.asarray(array, np.float64) < 0).any():
            raise WireError(f"arrays: {name!r} is a variance and holds a number below 0.")

    _check_finite("arrays", arrays)


def _check_finite(where: str, arrays: Mapping[str, AnyArray]) -> None:
    """Raise WireError if a floating-point array holds NaN or Inf."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise WireError(f"{where}: {name!r} holds NaN or Inf. {DIVERGED}")


def _checked_examples(found: Mapping[Modality, float], num_examples: int) -> dict[Modality, int]:
    """Return how many samples have a modality; raise WireError for a number that cannot be."""
    counts: dict[Modality, int] = {}
    for name, count in found.items():
        if not isinstance(count, int) or not 0 <= count <= num_examples:
            raise WireError(
                f"metrics: {EXAMPLES_OF}{name} = {count!r}, need an integer from 0 to "
                f"num-examples = {num_examples}."
            )
        counts[name] = count

    return counts


def _check_losses(sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
    """Raise WireError unless every loss term has a finite sum and a number of samples."""
    if set(sums) != set(counts):
        raise WireError(
            f"metrics: loss-sum.* of {sorted(sums)}, but loss-count.* of {sorted(counts)}."
        )
    for name, total in sums.items():
        if not abs(total) <= LARGEST_SUM or not 0 <= counts[name] <= MOST_SAMPLES:
            raise WireError(
                f"metrics: the loss {name!r} has the sum {total} over {counts[name]} samples."
            )


def _check_stats(
    stats: ClassStats, num_examples: int, modality_examples: Mapping[Modality, int]
) -> None:
    """Raise WireError unless 0 <= probability sum <= count everywhere, and no count is made up."""
    for name, count in stats.count.items():
        where = f"metrics: class statistics of {name!r}"
        total = stats.probability_sum[name]
        if (count < 0).any() or (total < 0).any() or (total > count * (1 + 1e-6)).any():
            raise WireError(f"{where} are out of range: need 0 <= sum <= count.")

        samples = count.sum()
        if samples > num_examples:
            raise WireError(f"{where} are of {samples} samples, but num-examples = {num_examples}.")

        most = modality_examples.get(name, num_examples)
        if samples > most:
            raise WireError(f"{where} are of {samples} samples, but {EXAMPLES_OF}{name} = {most}.")


def _checked_seconds(seconds: object) -> float | None:
    """Return how long training took, None where the node does not say.

    Raise WireError if no time.
    """
    if seconds is None:
        return None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
        raise WireError(
            f"metrics: seconds = {seconds!r}, need a number from 0 (to {MOST_SECONDS:.0e})."
        )

    return float(seconds)
