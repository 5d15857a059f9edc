"""The FedCMI strategy: per-modality aggregation and the broadcast of the global dominant modality.

A round: wait for nodes and ask unknown ones what they own; sample partitions; send each node the parameter groups it
can use, with the dominant modality and class temperatures that the last round's statistics gave; average every group
over the nodes that own it; add up the statistics for the next round.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.mean import aggregate_groups
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.aggregation.privacy import Privacy, check_arrays, check_bounds, check_method
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.methods import METHODS, Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.strategy.groups import group_names, groups_of
from fedcmi_flwr.strategy.guards import Guards, bound_updates, keep_finite, keep_finite_state
from fedcmi_flwr.strategy.lazy_arrays import LazyArrays
from fedcmi_flwr.strategy.nodes import NodeRegistry, RoundFailedError, content_of
from fedcmi_flwr.strategy.owners import known_owners, note_owners, owners_needed
from fedcmi_flwr.strategy.replies import mean_losses, read_updates
from fedcmi_flwr.strategy.reply_store import ReplyStore
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.strategy.tasks import TaskMessages
from fedcmi_flwr.types import SHARED, AnyArray, ClassStats, Modality
from fedcmi_flwr.wire.packing import WireError

logger = logging.getLogger("flwr.fedcmi")
NO_GUARDS = Guards()
"""All bounds off."""


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
    evaluate_from
        First round after which they do.
    min_available_nodes
        Nodes to wait for before a round starts.
    wait_timeout
        Seconds to wait for these nodes, and for the answers to queries, before the round fails.
    min_replies
        A round with fewer replies that can be used fails: the model stays as it was.
    min_owners_per_modality
        A modality's group that fewer nodes trained in a round keeps its value, and its statistics do not count.
    failure_budget
        Failed rounds in a row that are put up with once a round has succeeded; the next one raises RoundFailedError.
    aggregation
        What becomes of a group's updates; None: their mean, weighted by samples.
    guards
        Bounds on what one reply may do.
    server_optimizer
        Takes the averages of each group as a step; None: they are the new weights.
    privacy
        Clips and adds noise to what is released of nodes, and counts it. Losses, numbers of samples, times and class
        statistics are not released then, and :class:`PrivacyBudgetError` ends ``start`` before a round that would
        exceed the budget. None: off.
    wire_dtype
        What float32 weights travel in, "float32" or "float16"; nodes are told.

    Raises
    ------
    ValueError
        Fewer than one modality, or a modality called "shared"; with ``privacy``, a method whose nodes send arrays of
        their own, evaluations on nodes, another aggregation than the mean, or ``max_example_ratio``.
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
        evaluate_from: int = 1,
        min_available_nodes: int = 2,
        wait_timeout: float = 120.0,
        min_replies: int = 1,
        min_owners_per_modality: int = 1,
        failure_budget: int = 3,
        aggregation: RobustAggregation | None = None,
        guards: Guards = NO_GUARDS,
        server_optimizer: ServerOptimizer | None = None,
        privacy: Privacy | None = None,
        wire_dtype: str = "float32",
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
        if privacy is not None:
            check_method(method, fraction_evaluate)
            check_bounds("mean" if aggregation is None else aggregation.name, guards.max_example_ratio)
        self.groups = {name: tuple(prefixes) for name, prefixes in groups.items()}
        self.num_classes = num_classes
        self.method = method
        self.nodes = NodeRegistry(tuple(self.groups), seed, min_available_nodes, wait_timeout)
        self.dominance = NOBODY
        self.method_state: dict[str, AnyArray] = {}
        self.evaluate_from = evaluate_from
        self.to_evaluate: Callable[[int, Mapping[str, AnyArray]], Mapping[str, AnyArray]] = lambda _, values: values
        """From a round and its global model to the one that nodes evaluate: an average over rounds, where that is
        what will be used."""
        self.aggregation = aggregation
        self.guards = guards
        self.server_optimizer = server_optimizer
        self.privacy = privacy
        self.wire_dtype = wire_dtype
        self.releases: dict[int, int] = {}
        """The account: partition id -> vectors of the node that went into noisy sums."""
        self.min_replies = min_replies
        self.min_owners_per_modality = min_owners_per_modality
        self.failure_budget = failure_budget
        self.failures_left = 0
        """Failed rounds that may follow now; none before the first success, where waiting would not help."""
        self.report = RoundReport(0, time.monotonic())
        self.rounds_done = 0
        """Rounds of an earlier process; Flower's ``start`` counts from 1 again, the hooks below go on from here."""

    def state(self) -> ServerState:
        """Return what the next round needs besides the weights."""
        optimizer = {} if self.server_optimizer is None else self.server_optimizer.state()
        return ServerState(self.dominance, dict(self.method_state), optimizer, dict(self.releases))

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
        self.failures_left = self.failure_budget
        self.dominance = state.dominance
        self.releases = dict(state.releases)
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
        """Sample nodes and send each the groups it can use; nothing where too few nodes can be used."""
        server_round += self.rounds_done
        report = RoundReport(server_round, time.monotonic(), self.num_classes, used=self.dominance)
        self.nodes.ask_again(self.report.to_ask_again)
        self.report = report
        report.arrays = {name: array.numpy() for name, array in arrays.items()}
        report.names = group_names(tuple(report.arrays), self.groups)
        report.privacy = None if self.privacy is None else self.privacy.spent(self.releases)
        try:
            chosen = self.nodes.sample(grid, server_round, self.fraction_train, self.min_train_nodes, "train")
        except RoundFailedError as error:
            report.failed = str(error)
            return []
        report.asking_seconds = time.monotonic() - report.started
        report.known = dict(self.nodes.known)
        for node in chosen:
            info = report.known[node]
            report.sent[node] = (info, groups_of(info.modalities, report.names))
        self._charge()
        tasks = self._tasks(server_round, report.arrays, config)
        messages = [tasks.train(node, report.known[node], self.method_state) for node in chosen]
        for message in messages:
            info, _ = report.sent[message.metadata.dst_node_id]
            report.bytes_down[info.partition_id] = wire.content_bytes(message)
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
            Replies in any order; it does not matter to the result. Each is let go before the next one is taken, so that
            with :class:`ArrivalGrid` the memory does not grow with their number (krum: of weights, does).

        Returns
        -------
        The new global model (None after a failed round, which leaves it as it was), and mean losses, samples and
        refused replies.

        Raises
        ------
        RoundFailedError
            One failed round too many, or a simulated actor died and would fail every later task.
        """
        with ReplyStore() as store:
            updates = read_updates(replies, self.report, self.method, self.method_state, store)
            if self.privacy is not None:  # how many samples a node has is not released, nor of what
                updates = {partition: replace(u, modality_examples={}) for partition, u in updates.items()}
            return self._aggregate_train(bound_updates(updates, self.report, self.guards, self.method))

    def _aggregate_train(self, updates: Mapping[int, wire.NodeUpdate]) -> tuple[ArrayRecord | None, MetricRecord]:
        report = self.report
        ordered = [updates[partition] for partition in sorted(updates)]
        note_owners(report, updates, self.min_owners_per_modality, self.aggregation)
        reason = report.failed or self._why_failed(updates)
        if reason:
            return None, self._fail(reason)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by keep_finite
            aggregated = keep_finite(self._aggregate(ordered), report)
            from_method = [update.from_method for update in ordered]
            state = self.method.combine(self.method_state, from_method, known_owners(report))
        self.method_state = keep_finite_state(state, self.method_state, report)
        self._decide(ordered)
        if self.privacy is None:
            report.losses = mean_losses(ordered)
            report.examples = {partition: updates[partition].num_examples for partition in sorted(updates)}
            report.num_examples = sum(report.examples.values())
            taken = {partition: updates[partition].seconds for partition in sorted(updates)}
            report.train_seconds = {partition: took for partition, took in taken.items() if took is not None}
        self.failures_left = self.failure_budget
        self._close()
        metrics: dict[str, int | float] = {f"loss.{name}": value for name, value in report.losses.items()}
        metrics |= {"num-examples": report.num_examples, "refused": len(report.refused)} | (report.privacy or {})
        return ArrayRecord({name: Array(value) for name, value in aggregated.items()}), MetricRecord(dict(metrics))

    def _aggregate(self, updates: Sequence[wire.NodeUpdate]) -> dict[str, AnyArray]:
        """Return the new global model; groups with too few owners keep their values."""
        report = self.report
        trained = {group: names for group, names in report.names.items() if report.owners[group]}
        aggregated = self._average(updates, trained)
        if self.server_optimizer is None:
            return aggregated
        return self.server_optimizer.step(report.arrays, aggregated, trained)

    def _average(self, updates: Sequence[wire.NodeUpdate], trained: Mapping[str, Sequence[str]]) -> dict[str, AnyArray]:
        report = self.report
        if self.privacy is not None:
            asked = Counter(group for _, groups in report.sent.values() for group in groups)
            return self.privacy.average(report.arrays, [update.arrays for update in updates], trained, asked)
        weights = [_weights(update, trained) for update in updates]
        parts = [LazyArrays(names, u.arrays.__getitem__) for names, u in zip(weights, updates, strict=True)]
        if self.aggregation is not None:
            return self.aggregation.aggregate(report.arrays, parts, trained)
        return aggregate_groups(report.arrays, list(zip(parts, weights, strict=True)))

    def _charge(self) -> None:
        """Book what the round will release of the nodes it asks, before they are asked."""
        if self.privacy is None:
            return
        report = self.report
        check_arrays(report.arrays)
        asked = {info.partition_id: len(groups) + self.method.measures for info, groups in report.sent.values()}
        self.releases = self.privacy.charge(self.releases, asked)
        report.privacy = self.privacy.spent(self.releases)

    def _why_failed(self, updates: Mapping[int, wire.NodeUpdate]) -> str:
        """Return why the round's updates are too few; empty where they are not."""
        report, found = self.report, len(updates)
        where = f"round {report.server_round}"
        if found < self.min_replies:
            first = report.refused[0] if report.refused else "no more nodes were asked to train."
            usable = "none" if found == 0 else f"{found}"
            needed = "" if found == 0 else f", min-replies = {self.min_replies}"
            return f"{where}: {usable} of {len(report.sent)} replies can be used{needed}. The first: {first}"
        if not any(report.owners[modality] for modality in self.groups):
            least, because = owners_needed(next(iter(self.groups)), self.min_owners_per_modality, self.aggregation)
            return f"{where}: no modality was trained by {least} nodes ({because})."
        return ""

    def _fail(self, reason: str) -> MetricRecord:
        """Note that the round failed; raise where that was one too many."""
        self.report.failed = reason
        if self.failures_left == 0:
            raise RoundFailedError(reason)
        self.failures_left -= 1
        logger.warning("%s The model stays as it was; %d more such rounds may follow.", reason, self.failures_left)
        self._close()
        return MetricRecord({"refused": len(self.report.refused)})

    def _close(self) -> None:
        """End the round: the old model is not needed any more."""
        self.report.arrays = {}
        self.report.seconds = time.monotonic() - self.report.started

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes for evaluation on their own samples; nothing when ``fraction_evaluate`` is 0."""
        server_round += self.rounds_done
        if self.fraction_evaluate == 0.0 or self.report.failed or server_round < self.evaluate_from:
            return []
        try:
            chosen = self.nodes.sample(grid, server_round, self.fraction_evaluate, self.min_evaluate_nodes, "evaluate")
        except RoundFailedError as error:
            logger.warning("nobody evaluates: %s", error)
            return []
        self.report.to_evaluate = set(chosen)
        values = self.to_evaluate(server_round, {name: array.numpy() for name, array in arrays.items()})
        tasks = self._tasks(server_round, values, config)
        return [tasks.evaluate(node, self.nodes.known[node]) for node in chosen]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Add up correct predictions and samples over nodes, then divide; malformed and missing replies are noted."""
        totals, waiting = self.report.evaluated, self.report.to_evaluate
        for message in replies:
            node = message.metadata.src_node_id
            asked = node in waiting
            waiting.discard(node)
            try:
                content = content_of(message)
                if not asked:
                    raise WireError("it was not asked in this round, or answered before.")
                counts = wire.read_evaluate_reply(content, self.num_classes)
            except WireError as error:
                self.report.refuse(node, f"Evaluation of node {node} refused: {error}")
                continue
            self.report.evaluated_by[self.nodes.known[node].partition_id] = counts
            for name, found in counts.items():
                totals[name] = totals[name] + found if name in totals else found
        for node in sorted(waiting):
            self.report.refuse(node, f"No evaluation of {self.report.describe(node)}. The round's time is over.")
        if not totals:
            return None
        return MetricRecord({f"accuracy.{name}": found.accuracy for name, found in totals.items()})

    def _tasks(self, server_round: int, values: Mapping[str, AnyArray], config: ConfigRecord) -> TaskMessages:
        names = group_names(tuple(values), self.groups)
        return TaskMessages(server_round, values, names, self.method, config, self.dominance, self.wire_dtype)

    def _decide(self, updates: Sequence[wire.NodeUpdate]) -> None:
        """Add up the class statistics; the dominant modality and temperatures go out with the next round's model."""
        parts = [update.stats for update in updates if update.stats is not None]
        counting = [modality for modality in self.groups if self.report.owners[modality]]
        if self.privacy is None:
            stats = self.report.stats = sum(parts, start=ClassStats({}, {})).only(counting)
        else:
            stats = self.privacy.statistics(parts, counting if self.method.measures else [], self.num_classes)
        self.report.measured = self.method.decide(stats)
        if self.method.measures and self.report.measured.dominant is None:
            logger.warning(
                "round %d: nobody teaches in the next round: no class was measured in two modalities",
                self.report.server_round,
            )
        self.dominance = self.method.broadcast(self.report.measured)


def _weights(update: wire.NodeUpdate, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return n_{k,m} of each array of these groups that a node trained."""
    examples = {group: float(update.examples_of(group)) for group in groups}
    trained = [(group, name) for group in groups if examples[group] > 0 for name in groups[group]]
    return {name: examples[group] for group, name in trained if name in update.arrays}
