"""The FedCMI strategy: per-modality aggregation and the broadcast of the global dominant modality.

A round: wait for nodes and ask unknown ones what they own; sample partitions; send each node the parameter groups it
can use, with the dominant modality and class temperatures that the last round's statistics gave; average every group
over the nodes that own it; add up the statistics for the next round.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation import AnyArray, aggregate_groups
from fedcmi_flwr.dominance import NOBODY, Dominance
from fedcmi_flwr.evaluate import Counts
from fedcmi_flwr.methods import METHODS, Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.nodes import NodeRegistry, RoundFailedError, content_of
from fedcmi_flwr.packing import WireError, pack
from fedcmi_flwr.server_optimizers import ServerOptimizer
from fedcmi_flwr.server_state import ServerState
from fedcmi_flwr.types import SHARED, ClassStats, Modality

logger = logging.getLogger("flwr.fedcmi")


@dataclass
class RoundReport:
    """What happened in one round."""

    server_round: int
    started: float
    """Seconds on the monotonic clock."""
    known: dict[int, wire.NodeInfo] = field(default_factory=dict)
    """Node id -> what it owns, of every node that could have been sampled."""
    sent: dict[int, tuple[wire.NodeInfo, tuple[str, ...]]] = field(default_factory=dict)
    """Node id -> (what it owns, groups sent)."""
    arrays: dict[str, AnyArray] = field(default_factory=dict)
    """The global model that was sent."""
    used: Dominance = NOBODY
    """The decision that was sent."""
    measured: Dominance = NOBODY
    """What this round's statistics say; sent in the next round."""
    stats: ClassStats = field(default_factory=lambda: ClassStats({}, {}))
    """Class statistics added up over nodes."""
    evaluated: dict[str, Counts] = field(default_factory=dict)
    """What nodes counted on their own test samples, added up; empty unless ``fraction_evaluate`` is above 0."""
    losses: dict[str, float] = field(default_factory=dict)
    """Loss term -> mean over the samples of the nodes that have the term, in nats, without weight."""
    owners: dict[str, list[int]] = field(default_factory=dict)
    """Group -> partition ids whose updates were averaged."""
    num_examples: int = 0
    examples: dict[int, int] = field(default_factory=dict)
    """Partition id -> training samples, of the nodes whose updates were averaged."""
    refused: list[str] = field(default_factory=list)
    """One line per node whose reply was refused or did not come."""
    bytes_down: dict[int, int] = field(default_factory=dict)
    """Partition id -> bytes of the train message."""
    bytes_up: dict[int, int] = field(default_factory=dict)
    """Partition id -> bytes of the reply, refused ones included."""
    seconds: float = 0.0
    """From the start of sampling to the end of aggregation."""


class FedCMI(FedAvg):
    """Federated averaging per modality, with cross-modal infiltration from the global dominant modality.

    Source: arXiv 2401.00894. The other methods of the project run through it with their parts off.

    Parameters
    ----------
    groups
        Modality -> prefixes of its parameters' names in the model's state_dict. What no prefix matches is shared by
        all nodes (the fusion head). The order of the modalities is sent to the nodes.
    num_classes
        C, the length of the class statistics.
    method
        The hyperparameters of the local objective; they are sent to the nodes under their configuration keys.
    seed
        Seed of the sampling of partitions.
    fraction_train
        Share of the available nodes that train in a round, in (0, 1].
    min_train_nodes
        Fewest nodes that train in a round, where there are that many.
    fraction_evaluate
        Share of the available nodes that evaluate on their own samples; 0: none.
    min_available_nodes
        Nodes to wait for before a round starts.
    wait_timeout
        Seconds to wait for these nodes, and for the answers to queries, before the run fails.
    server_optimizer
        Takes the averages of each group as a step; None: they are the new weights.

    Raises
    ------
    ValueError
        Fewer than one modality, or a modality called "shared".
    """

    def __init__(
        self,
        groups: Mapping[Modality, Sequence[str]],
        num_classes: int,
        method: Method = METHODS["fedcmi"],
        *,
        seed: int = 0,
        fraction_train: float = 1.0,
        min_train_nodes: int = 2,
        fraction_evaluate: float = 0.0,
        min_available_nodes: int = 2,
        wait_timeout: float = 120.0,
        server_optimizer: ServerOptimizer | None = None,
    ) -> None:
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=1,
            min_available_nodes=min_available_nodes,
        )
        if not groups or SHARED in groups:
            raise ValueError(
                f"groups = {dict(groups)!r}: name the parameter prefixes of at least one modality, none called "
                f"{SHARED!r}; what no prefix matches is shared."
            )
        self.groups = {name: tuple(prefixes) for name, prefixes in groups.items()}
        self.num_classes = num_classes
        self.method = method
        self.nodes = NodeRegistry(tuple(self.groups), seed, min_available_nodes, wait_timeout)
        self.dominance = NOBODY
        self.method_state: dict[str, AnyArray] = {}
        self.server_optimizer = server_optimizer
        self.report = RoundReport(0, time.monotonic())
        self.rounds_done = 0
        """Rounds of an earlier process; Flower's ``start`` counts from 1 again, the hooks below go on from here."""

    def state(self) -> ServerState:
        """Return what the next round needs besides the weights."""
        optimizer = {} if self.server_optimizer is None else self.server_optimizer.state()
        return ServerState(self.dominance, dict(self.method_state), optimizer)

    def resume(self, rounds_done: int, state: ServerState, nodes_remember: bool) -> None:
        """Go on after a round of an earlier process; call it before ``start``, with the weights after that round.

        Parameters
        ----------
        rounds_done
            Rounds that need not be done again; ``num_rounds`` of ``start`` is what is left.
        state
            What :meth:`state` gave after that round.
        nodes_remember
            Whether nodes still have what the method kept on them; where they do not, as after a new run id on real
            devices, the method drops what makes no sense without it.
        """
        self.rounds_done = rounds_done
        self.dominance = state.dominance
        self.method_state = dict(state.method) if nodes_remember else self.method.without_memory(state.method)
        if self.server_optimizer is not None:
            self.server_optimizer.restore(state.optimizer)
        logger.info("resumed after round %d; Flower's own lines count from 1 again", rounds_done)

    def summary(self) -> None:
        """Log the strategy's settings."""
        super().summary()
        logger.info("\t├──> Modalities: %s", ", ".join(self.groups))
        logger.info("\t└──> Method: %s", hyperparameters_of(self.method))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes and send each the groups it can use."""
        server_round += self.rounds_done
        self.report = RoundReport(server_round, time.monotonic(), used=self.dominance)
        chosen = self.nodes.sample(grid, server_round, self.fraction_train, self.min_train_nodes, "train")
        self.report.known = dict(self.nodes.known)
        messages = self._task_messages(MessageType.TRAIN, server_round, arrays, config, chosen)
        for message in messages:
            partition = self.nodes.known[message.metadata.dst_node_id].partition_id
            self.report.bytes_down[partition] = wire.content_bytes(message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average every group over the nodes that own it, and decide the next round's dominance.

        Parameters
        ----------
        server_round
            Counted from 1 by Flower's ``start``; the report has the true one.
        replies
            Replies in any order; it does not matter to the result.

        Returns
        -------
        The new global model, and mean losses, samples and refused replies.

        Raises
        ------
        RoundFailedError
            No valid reply, or a simulated actor died and would fail every later task.
        """
        report = self.report
        updates = self._valid_updates(list(replies))
        if not updates:
            first = report.refused[0] if report.refused else "no node was asked to train."
            raise RoundFailedError(
                f"round {report.server_round}: none of {len(report.refused)} replies can be used. The first: {first}"
            )
        ordered = [updates[partition] for partition in sorted(updates)]
        aggregated = aggregate_groups(report.arrays, [(u.arrays, float(u.num_examples)) for u in ordered])
        self._note_owners(updates)
        if self.server_optimizer is not None:
            trained = {group: names for group, names in self._names(aggregated).items() if report.owners[group]}
            aggregated = self.server_optimizer.step(report.arrays, aggregated, trained)
        replies_of_method = [update.from_method for update in ordered]
        self.method_state = self.method.combine(self.method_state, replies_of_method, self._known_owners(aggregated))
        self._decide(ordered)
        report.losses = _mean_losses(ordered)
        report.examples = {partition: updates[partition].num_examples for partition in sorted(updates)}
        report.num_examples = sum(report.examples.values())
        report.arrays = {}  # the old model is not needed any more
        report.seconds = time.monotonic() - report.started
        metrics: dict[str, int | float] = {f"loss.{name}": value for name, value in report.losses.items()}
        metrics |= {"num-examples": report.num_examples, "refused": len(report.refused)}
        return ArrayRecord({name: Array(value) for name, value in aggregated.items()}), MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes for evaluation on their own samples; nothing when ``fraction_evaluate`` is 0."""
        if self.fraction_evaluate == 0.0:
            return []
        server_round += self.rounds_done
        chosen = self.nodes.sample(grid, server_round, self.fraction_evaluate, self.min_evaluate_nodes, "evaluate")
        return self._task_messages(MessageType.EVALUATE, server_round, arrays, config, chosen)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Add up correct predictions and samples over nodes, then divide; malformed replies are refused."""
        totals = self.report.evaluated
        for message in replies:
            try:
                counts = wire.read_evaluate_reply(content_of(message), self.num_classes)
            except WireError as error:
                self._refuse(f"Evaluation of node {message.metadata.src_node_id} refused: {error}")
                continue
            for name, found in counts.items():
                totals[name] = totals[name] + found if name in totals else found
        if not totals:
            return None
        return MetricRecord({f"accuracy.{name}": found.accuracy for name, found in totals.items()})

    def _task_messages(
        self,
        message_type: str,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        node_ids: Sequence[int],
    ) -> list[Message]:
        values = {name: array.numpy() for name, array in arrays.items()}
        names = self._names(values)
        settings = {**hyperparameters_of(self.method), **config, "server-round": server_round}
        packed: dict[tuple[str, ...], tuple[ArrayRecord, ConfigRecord]] = {}  # the same for all nodes that own the same
        messages = []
        for node in node_ids:
            info = self.nodes.known[node]
            groups = _groups_of(info, names)
            if groups not in packed:
                packed[groups] = pack(values, {group: names[group] for group in groups})
            own: dict[str, AnyArray] = {}
            if message_type == MessageType.TRAIN:
                self.report.sent[node] = (info, groups)
                self.report.arrays = values
                sent = [name for group in groups for name in names[group]]
                own = self.method.for_node(self.method_state, info.modalities, sent)
            modalities = tuple(self.groups)
            task = (packed[groups], settings, modalities, self.dominance, own)
            messages.append(wire.task_message(node, message_type, *task))
        return messages

    def _names(self, arrays: Mapping[str, AnyArray]) -> dict[str, tuple[str, ...]]:
        return group_names(tuple(arrays), self.groups)

    def _known_owners(self, arrays: Mapping[str, AnyArray]) -> dict[str, int]:
        """Return, for each array, how many nodes own its group, sampled or not."""
        known = list(self.report.known.values())
        names = self._names(arrays)
        counts = {group: sum(group in _groups_of(info, names) for info in known) for group in names}
        return {name: counts[group] for group, members in names.items() for name in members}

    def _valid_updates(self, replies: list[Message]) -> dict[int, wire.NodeUpdate]:
        """Decode replies, partition id -> update; refuse what is malformed, with node and reason."""
        report, lost = self.report, list[str]()
        updates: dict[int, wire.NodeUpdate] = {}
        names = self._names(report.arrays)
        silent = {node: info for node, (info, _) in report.sent.items()}
        for message in replies:
            node = message.metadata.src_node_id
            info = silent.pop(node, None)
            if info is not None:
                report.bytes_up[info.partition_id] = wire.content_bytes(message)
            try:
                content = content_of(message)
                if info is None:
                    raise WireError("it was not asked in this round, or answered before.")
                sent = {name: report.arrays[name] for group in _groups_of(info, names) for name in names[group]}
                updates[info.partition_id] = self._read_update(content, sent, info)
            except WireError as error:
                if info is None and message.has_error():
                    lost.append(str(error))  # of a node that left: Flower does not say which
                else:
                    self._refuse(f"Reply of node {node}{_partition_of(info)} refused: {error}")
        because = f" Flower says: {'; '.join(lost)}" if lost else " The round's time is over."
        for node, info in silent.items():
            self._refuse(f"No reply of node {node}{_partition_of(info)}.{because}")
        return self._without_misfits(updates)

    def _without_misfits(self, updates: dict[int, wire.NodeUpdate]) -> dict[int, wire.NodeUpdate]:
        """Refuse what the method cannot combine with its state or with the other replies."""
        replies = {partition: updates[partition].from_method for partition in sorted(updates)}
        reasons = self.method.misfits(self.method_state, replies)
        for node, (info, _) in self.report.sent.items():
            if info.partition_id in reasons:
                reason = reasons[info.partition_id]
                self._refuse(f"Reply of node {node}{_partition_of(info)} refused: method-arrays: {reason}")
        return {partition: update for partition, update in updates.items() if partition not in reasons}

    def _read_update(self, content: Message, sent: Mapping[str, AnyArray], info: wire.NodeInfo) -> wire.NodeUpdate:
        measured = info.modalities if self.method.measures else ()
        update = wire.read_train_reply(content, sent, measured, self.num_classes)
        try:
            self.method.check_reply(update.from_method, sent, info.modalities, self.num_classes)
        except ValueError as error:
            raise WireError(f"method-arrays: {error}") from error
        return update

    def _refuse(self, line: str) -> None:
        self.report.refused.append(line)
        logger.warning("round %d: %s", self.report.server_round, line)

    def _note_owners(self, updates: Mapping[int, wire.NodeUpdate]) -> None:
        partitions = {info.partition_id: groups for info, groups in self.report.sent.values()}
        for group in self._names(self.report.arrays):
            self.report.owners[group] = [p for p in sorted(updates) if group in partitions[p]]
            if not self.report.owners[group]:
                logger.warning("round %d: nobody trained %r; it keeps its value", self.report.server_round, group)

    def _decide(self, updates: Sequence[wire.NodeUpdate]) -> None:
        """Add up the class statistics; the dominant modality and temperatures go out with the next round's model."""
        parts = [update.stats for update in updates if update.stats is not None]
        self.report.stats = sum(parts, start=ClassStats({}, {}))
        self.report.measured = self.method.decide(self.report.stats)
        if self.method.measures and self.report.measured.dominant is None:
            logger.warning(
                "round %d: nobody teaches in the next round: no class was measured in two modalities",
                self.report.server_round,
            )
        self.dominance = self.method.broadcast(self.report.measured)


def group_names(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Sort parameter names into groups by prefix; what no prefix matches is shared.

    Parameters
    ----------
    names
        All names of the model's state_dict.
    groups
        Group -> prefixes.

    Returns
    -------
    Group -> names in the given order, "shared" last where there is any.

    Raises
    ------
    ValueError
        A name that two groups claim, or a group without any parameter.

    Examples
    --------
    >>> group_names(("ear.w", "eye.w", "head.w"), {"audio": ["ear."], "visual": ["eye."]})
    {'audio': ('ear.w',), 'visual': ('eye.w',), 'shared': ('head.w',)}
    """
    found: dict[str, list[str]] = {group: [] for group in (*groups, SHARED)}
    for name in names:
        claims = [group for group, prefixes in groups.items() if name.startswith(tuple(prefixes))]
        if len(claims) > 1:
            raise ValueError(f"parameter {name!r} belongs to the groups {claims}; make their prefixes distinct.")
        found[claims[0] if claims else SHARED].append(name)
    empty = [group for group in groups if not found[group]]
    if empty:
        raise ValueError(
            f"group {empty[0]!r}: no parameter starts with {list(groups[empty[0]])}; names: {names[:5]}..."
        )
    return {group: tuple(members) for group, members in found.items() if members}


def _groups_of(info: wire.NodeInfo, names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the groups that a node can use."""
    return tuple(group for group in (*info.modalities, SHARED) if group in names)


def _partition_of(info: wire.NodeInfo | None) -> str:
    return "" if info is None else f" (partition {info.partition_id}, {'+'.join(info.modalities)})"


def _mean_losses(updates: Sequence[wire.NodeUpdate]) -> dict[str, float]:
    names = list(dict.fromkeys(name for update in updates for name in update.loss_sum))
    sums = {name: sum(update.loss_sum.get(name, 0.0) for update in updates) for name in names}
    counts = {name: sum(update.loss_count.get(name, 0) for update in updates) for name in names}
    return {name: float(np.divide(sums[name], counts[name])) for name in names if counts[name] > 0}
