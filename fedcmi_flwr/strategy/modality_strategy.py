"""The strategy: per-modality aggregation and the broadcast of the global dominant modality.

A round: wait for nodes and ask unknown ones what they own; sample partitions; send each node the parameter groups it
can use, with the dominant modality and class temperatures that the last round's statistics gave; average every group
over the nodes that own it; add up the statistics for the next round.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.group_optimizers import GroupOptimizers
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.aggregation.privacy import NO_PRIVACY, Privacy, check_arrays, check_protected
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.methods import METHODS, Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.strategy.averaging import average_updates
from fedcmi_flwr.strategy.evaluations import add_up, read_evaluations
from fedcmi_flwr.strategy.failure import why_failed
from fedcmi_flwr.strategy.groups import group_names, groups_for
from fedcmi_flwr.strategy.guards import Guards, bound_updates, finite_or_kept
from fedcmi_flwr.strategy.last_good import LastGood, unusable_groups
from fedcmi_flwr.strategy.nodes import NodeRegistry, RoundFailedError
from fedcmi_flwr.strategy.owners import known_owners, owners_by_group
from fedcmi_flwr.strategy.replies import note_training, read_updates
from fedcmi_flwr.strategy.reply_store import ReplyStore
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.strategy.tasks import TaskMessages
from fedcmi_flwr.strategy.teaching import next_teacher
from fedcmi_flwr.strategy.tolerance import Tolerance
from fedcmi_flwr.types import SHARED, AnyArray, Modality

logger = logging.getLogger("flwr.fedcmi")


class ModalityStrategy(FedAvg):
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
    sampling
        How many nodes train and evaluate, and how long the server waits for them.
    tolerance
        Which rounds fail, and how many may.
    guards
        Bounds on what one reply may do.
    aggregation
        How a group's updates become one.
    server_optimizer
        What the server does with each group's average.
    privacy
        Differential privacy. Where it is enabled, losses, numbers of samples, times and class statistics are not
        released, and :class:`PrivacyBudgetError` ends ``start`` before a round that would exceed the budget.
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
        sampling: Sampling = Sampling(),
        tolerance: Tolerance = Tolerance(),
        guards: Guards = Guards(),
        aggregation: RobustAggregation = RobustAggregation(),
        server_optimizer: ServerOptimizer = ServerOptimizer(),
        privacy: Privacy = NO_PRIVACY,
        wire_dtype: str = "float32",
    ) -> None:
        super().__init__(
            fraction_train=sampling.fraction_train,
            fraction_evaluate=sampling.fraction_evaluate,
            min_train_nodes=sampling.min_train_nodes,
            min_evaluate_nodes=1,
            min_available_nodes=sampling.min_available_nodes,
        )
        if not groups or SHARED in groups:
            raise ValueError(
                f"groups = {dict(groups)!r}: name the parameter prefixes of at least one modality, none called "
                f"{SHARED!r}; what no prefix matches is shared."
            )
        if privacy.enabled:
            check_protected(method, sampling.fraction_evaluate, aggregation.name, guards.max_example_ratio)

        self.groups = {name: tuple(prefixes) for name, prefixes in groups.items()}
        self.num_classes = num_classes
        self.method = method
        self.evaluate_from = sampling.evaluate_from
        self.tolerance = tolerance
        self.guards = replace(guards, max_norm_ratio=0.0) if privacy.enabled else guards
        self.aggregation = aggregation
        self.privacy = privacy
        self.wire_dtype = wire_dtype

        self.nodes = NodeRegistry(tuple(self.groups), seed, sampling.min_available_nodes, sampling.wait_timeout)
        self.optimizers = GroupOptimizers(server_optimizer)
        self.dominance = NOBODY
        self.method_state: dict[str, AnyArray] = {}
        self.releases: dict[int, int] = {}
        """The account: partition id -> vectors of the node that went into noisy sums."""
        self.failures_left = 0
        """Failed rounds that may follow now; none before the first success, where waiting would not help."""
        self.rounds_done = 0
        """Rounds of an earlier process; Flower's ``start`` counts from 1 again, the hooks below go on from here."""
        self.to_evaluate: Callable[[int, Mapping[str, AnyArray]], Mapping[str, AnyArray]] = lambda _, values: values
        """From a round and its global model to the one that nodes evaluate: an average over rounds, where that is
        what will be used."""
        self.why_unusable: Callable[[Mapping[str, AnyArray]], str] = lambda _: ""
        """From a new global model to what is wrong with it; such a round fails, and the model stays as it was."""
        self.good = LastGood()
        self.report = RoundReport(RoundPlan(0, num_classes))
        self._started = time.monotonic()
        self._evaluating: dict[int, wire.NodeInfo] = {}

    def state(self) -> ServerState:
        """Return what the next round needs besides the weights."""
        return ServerState(self.dominance, dict(self.method_state), self.optimizers.state(), dict(self.releases))

    def resume(self, rounds_done: int, state: ServerState, nodes_remember: bool, good: LastGood | None = None) -> None:
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
        good
            Where the first round goes back to if all nodes find its model unusable; None: nowhere.
        """
        self.good = good or self.good
        self.rounds_done = rounds_done
        self.failures_left = self.tolerance.failure_budget
        self.releases = dict(state.releases)
        method = dict(state.method) if nodes_remember else self.method.without_memory(state.method)
        self._restore(replace(state, method=method))
        logger.info("resumed after round %d; Flower's own lines count from 1 again", rounds_done)

    def _restore(self, state: ServerState) -> None:
        """Take a state over, but for the account: what was released stays released."""
        self.dominance = state.dominance
        self.method_state = dict(state.method)
        self.optimizers.restore(state.optimizer)

    def summary(self) -> None:
        """Log the strategy's settings."""
        super().summary()
        logger.info("\t├──> Modalities: %s", ", ".join(self.groups))
        logger.info("\t└──> Method: %s", hyperparameters_of(self.method))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes and send each the groups it can use; nothing where too few nodes can be used."""
        self._started = time.monotonic()
        self.nodes.ask_again(self.report.to_ask_again)
        plan = self._plan(server_round + self.rounds_done, arrays)
        spent = self.privacy.spent(self.releases) if self.privacy.enabled else None
        self.report = report = RoundReport(plan, privacy=spent)
        try:
            chosen = self.nodes.sample(grid, plan.server_round, self.fraction_train, self.min_train_nodes, "train")
        except RoundFailedError as error:
            report.failed = str(error)
            return []
        report.asking_seconds = time.monotonic() - self._started

        known = dict(self.nodes.known)
        sent = {node: (known[node], groups_for(known[node].modalities, plan.names)) for node in chosen}
        report.plan = replace(plan, known=known, sent=sent)
        if self.privacy.enabled:
            self._charge(report)

        tasks = TaskMessages(plan, self.method, config, self.wire_dtype)
        messages = [tasks.train(node, known[node], self.method_state) for node in chosen]
        for message in messages:
            info = known[message.metadata.dst_node_id]
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
            if self.privacy.enabled:  # how many samples a node has is not released, nor of what
                updates = {partition: replace(u, modality_examples={}) for partition, u in updates.items()}
            return self._aggregate_train(bound_updates(updates, self.report, self.guards, self.method))

    def _aggregate_train(self, updates: Mapping[int, wire.NodeUpdate]) -> tuple[ArrayRecord | None, MetricRecord]:
        report = self.report
        report.owners = owners_by_group(report.plan, updates, self.tolerance, self.aggregation)
        before = self.state()
        back = self.good.go_back(report, unusable_groups(report, updates))
        reason = why_failed(report, len(updates), self.tolerance, self.aggregation)
        if reason:
            if report.rolled_back == list(report.plan.names) and self.good.state is not None:
                self._restore(self.good.state)
            arrays = {**report.plan.arrays, **back}  # before the round is closed, which lets go of them
            failed = self._fail(reason)
            return (_record(arrays) if back else None), failed

        ordered = [updates[partition] for partition in sorted(updates)]
        arrays = {**self._step(ordered), **back}
        reason = self.why_unusable(arrays)
        if reason:
            self._restore(before)
            return None, self._fail(f"round {report.plan.server_round}: {reason}")

        self.good.note(report.plan, report.owners, before)
        self.dominance = next_teacher(report, ordered, self.method, self.privacy)
        if not self.privacy.enabled:
            note_training(updates, report)
        self.failures_left = self.tolerance.failure_budget
        self._close()

        metrics: dict[str, int | float] = {f"loss.{name}": value for name, value in report.losses.items()}
        metrics |= {"num-examples": report.num_examples, "refused": len(report.refused)} | (report.privacy or {})
        return _record(arrays), MetricRecord(dict(metrics))

    def _step(self, updates: Sequence[wire.NodeUpdate]) -> dict[str, AnyArray]:
        """Return the new global model and take the method's new state; what would not be finite keeps its value."""
        report, plan = self.report, self.report.plan
        trained = {group: names for group, names in plan.names.items() if report.owners[group]}
        with np.errstate(over="ignore", invalid="ignore"):
            averaged = average_updates(updates, plan, trained, self.aggregation, self.privacy)
            stepped = self.optimizers.step(plan.arrays, averaged, trained)
            from_method = [update.from_method for update in updates]
            state = self.method.combine(self.method_state, from_method, known_owners(plan))

        arrays, self.method_state = finite_or_kept(stepped, state, self.method_state, report)
        return arrays

    def _charge(self, report: RoundReport) -> None:
        """Book what the round will release of the nodes it asks, before they are asked."""
        plan = report.plan
        check_arrays(plan.arrays)
        asked = {
            partition: len(groups) + self.method.measures for partition, groups in plan.groups_by_partition.items()
        }
        self.releases = self.privacy.charge(self.releases, asked)
        report.privacy = self.privacy.spent(self.releases)

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
        self.report.plan = replace(self.report.plan, arrays={})
        self.report.seconds = time.monotonic() - self._started

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

        self._evaluating = {node: self.nodes.known[node] for node in chosen}
        plan = self._plan(server_round, arrays)
        shown = replace(plan, arrays=self.to_evaluate(server_round, plan.arrays))
        tasks = TaskMessages(shown, self.method, config, self.wire_dtype)
        return [tasks.evaluate(node, info) for node, info in self._evaluating.items()]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Add up correct predictions and samples over nodes, then divide; malformed and missing replies are noted."""
        asked, self._evaluating = self._evaluating, {}
        self.report.evaluated_by = read_evaluations(replies, asked, self.report)
        self.report.evaluated = add_up(self.report.evaluated_by.values())
        if not self.report.evaluated:
            return None
        return MetricRecord({f"accuracy.{name}": found.accuracy for name, found in self.report.evaluated.items()})

    def _plan(self, server_round: int, arrays: ArrayRecord) -> RoundPlan:
        """Return a round's plan before anybody is chosen."""
        values = {name: array.numpy() for name, array in arrays.items()}
        names = group_names(tuple(values), self.groups)
        return RoundPlan(server_round, self.num_classes, self.dominance, values, names, expected=self.guards.expected)


def _record(arrays: Mapping[str, AnyArray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
