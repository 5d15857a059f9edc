"""From a round's replies to the updates that count.

What is malformed, missing or does not fit is refused by name.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Message

from fedcmi_flwr import wire
from fedcmi_flwr.methods import Method
from fedcmi_flwr.strategy.applied import check_applied
from fedcmi_flwr.strategy.last_good import DIVERGED
from fedcmi_flwr.strategy.nodes import content_of
from fedcmi_flwr.strategy.outliers import extents
from fedcmi_flwr.strategy.reply_store import ReplyStore
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.applied import read_applied
from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.text import one_line

logger = logging.getLogger("flwr.fedcmi")


def read_updates(
    replies: Iterable[Message],
    report: RoundReport,
    method: Method,
    method_state: Mapping[str, AnyArray],
    store: ReplyStore,
) -> dict[int, wire.NodeUpdate]:
    """Decode and check the replies of a round.

    Parameters
    ----------
    replies
        In any order; among them may be errors, doubles and what nobody asked for.
    report
        The round's; it says who was sent what, and gets the bytes and the refusals.
    method
        Says what a reply must hold.
    method_state
        The method's state on the server.
    store
        Where the arrays of each reply go as it comes.

    Returns
    -------
    Partition id -> update that can be used; its arrays are read from the store.

    Raises
    ------
    RoundFailedError
        A simulated actor died and would fail every later task.
    """
    updates: dict[int, wire.NodeUpdate] = {}
    lost: list[str] = []
    silent = {node: info for node, (info, _) in report.plan.sent.items()}
    for message in replies:
        node = message.metadata.src_node_id
        info = silent.pop(node, None)
        if info is not None:
            report.bytes_up[info.partition_id] = wire.content_bytes(
                message, arrays_alone=report.privacy is not None
            )

        try:
            content = content_of(message)
            if info is None:
                raise WireError("it was not asked in this round, or answered before.")

            wire.check_size(content, report.plan.sent_to(node), report.plan.num_classes)
            update = _read_update(content, report, method, node)
            report.extents[info.partition_id] = extents(update, report.plan)
            updates[info.partition_id] = _put_away(update, store)
        except WireError as error:
            if info is None and message.has_error():
                lost.append(str(error))  # of a node that left: Flower does not say which
            else:
                _refuse(report, node, str(error))

    because = f"Flower says: {'; '.join(lost)}" if lost else "The round's time is over."
    if lost and not silent:
        logger.warning(
            "round %d: errors, though no reply is missing: %s",
            report.plan.server_round,
            one_line("; ".join(lost)),
        )

    for node in silent:
        report.refuse(node, f"No reply of {report.plan.describe(node)}. {because}")

    report.learn()

    return _without_incompatible(updates, report, method, method_state)


def _read_update(
    content: Message, report: RoundReport, method: Method, node: int
) -> wire.NodeUpdate:
    plan = report.plan
    info, groups = plan.sent[node]
    sent = plan.sent_to(node)
    if not info.declared:
        info, groups = _shown_by(content, plan, node)
        report.learned[node] = (info, groups)
        sent = {name: sent[name] for group in groups for name in plan.names[group]}

    measured = info.modalities if method.measures else ()
    try:
        update = wire.read_train_reply(content, sent, measured, plan.num_classes, plan.weight_key)
    except WireError:  # what a method that was not applied lacks besides is no news
        check_applied(read_applied(content), plan.method, method)
        raise

    plan.expected.check_terms(update.loss_sum)
    check_applied(update.applied, plan.method, method)
    foreign = sorted(set(update.modality_examples) - set(info.modalities))
    if foreign:
        raise WireError(
            f"metrics: num-examples.{foreign[0]}, but the node owns {list(info.modalities)}."
        )

    try:
        method.check_reply(
            update.from_method, sent, info.modalities, plan.num_classes, update.num_examples
        )
    except ValueError as error:
        raise WireError(f"method-arrays: {error}") from error

    return update


def _shown_by(
    content: Message, plan: RoundPlan, node: int
) -> tuple[wire.NodeInfo, tuple[str, ...]]:
    """Return what a node without a query handler owns, by the arrays that it sent back."""
    info, groups = plan.narrowed(node, wire.reply_names(content))
    if not info.modalities:
        raise WireError(
            f"arrays: no modality of {list(plan.sent[node][0].modalities)} is whole. The node has "
            "no query handler, so it must send back all arrays of each modality that it owns, "
            "under the names that were sent: ArrayRecord(model.state_dict()); or answer the "
            "query, client_app.query()."
        )

    return info, groups


def _refuse(report: RoundReport, node: int, reason: str) -> None:
    report.refuse(node, f"Reply of {report.plan.describe(node)} refused: {reason}")
    if node in report.plan.sent and any(word in reason for word in DIVERGED):
        info, _ = report.plan.sent[node]
        report.diverged.add(info.partition_id)


def _put_away(update: wire.NodeUpdate, store: ReplyStore) -> wire.NodeUpdate:
    return replace(
        update, arrays=store.put(update.arrays), from_method=store.put(update.from_method)
    )


def _without_incompatible(
    updates: dict[int, wire.NodeUpdate],
    report: RoundReport,
    method: Method,
    method_state: Mapping[str, AnyArray],
) -> dict[int, wire.NodeUpdate]:
    """Refuse what the method cannot combine with its state or with the other replies."""
    from_method = {partition: updates[partition].from_method for partition in sorted(updates)}
    reasons = method.incompatible_replies(method_state, from_method)
    for node, (info, _) in report.plan.sent.items():
        if info.partition_id in reasons:
            reason = reasons[info.partition_id]
            report.refuse(
                node, f"Reply of {report.plan.describe(node)} refused: method-arrays: {reason}"
            )

    return {partition: update for partition, update in updates.items() if partition not in reasons}


def note_training(updates: Mapping[int, wire.NodeUpdate], report: RoundReport) -> None:
    """Put into the report what nodes say of their training.

    Parameters
    ----------
    updates
        Partition id -> update that counts.
    report
        The round's; gets losses, samples and seconds.
    """
    ordered = {partition: updates[partition] for partition in sorted(updates)}
    report.losses = mean_losses(list(ordered.values()))
    report.examples = {partition: update.num_examples for partition, update in ordered.items()}
    seconds = {partition: update.seconds for partition, update in ordered.items()}
    report.train_seconds = {
        partition: took for partition, took in seconds.items() if took is not None
    }


def mean_losses(updates: Sequence[wire.NodeUpdate]) -> dict[str, float]:
    """Return the mean of each loss term over the samples of the nodes that have it."""
    names = list(dict.fromkeys(name for update in updates for name in update.loss_sum))
    sums = {name: sum(update.loss_sum.get(name, 0.0) for update in updates) for name in names}
    counts = {name: sum(update.loss_count.get(name, 0) for update in updates) for name in names}

    return {name: float(np.divide(sums[name], counts[name])) for name in names if counts[name] > 0}
