"""The strategy: per-modality aggregation and the broadcast of the global dominant modality.

A round: wait for nodes and ask unknown ones what they own; sample partitions; send each node the
parameter groups it can use, with the dominant modality and class temperatures that the last
round's statistics gave; average every group over the nodes that own it; add up the statistics
for the next round.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.group_optimizers import GroupOptimizers
from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.aggregation.privacy import NO_PRIVACY, Privacy, check_protected
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.lookup import find
from fedcmi_flwr.methods import METHOD, Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.strategy.account import charge
from fedcmi_flwr.strategy.applied import name_of
from fedcmi_flwr.strategy.averages import (
    MetricsAggregation,
    ModelAverage,
    mean_metrics,
    own_metrics,
)
from fedcmi_flwr.strategy.averaging import average_updates
from fedcmi_flwr.strategy.evaluations import evaluation_metrics
from fedcmi_flwr.strategy.failure import FailureBudget, why_failed
from fedcmi_flwr.strategy.groups import checked_groups, group_names, groups_for
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
from fedcmi_flwr.strategy.wrappers import WrapperCheck
from fedcmi_flwr.types import AnyArray, Modality

logger = logging.getLogger("flwr.fedcmi")


class ModalityStrategy(FedAvg):
    """Federated averaging per modality, with cross-modal infiltration from the global dominant
    modality.

    Source: arXiv 2401.00894. The other methods of the project run through it with their parts off.

    Parameters
    ----------
    groups
        Modality -> prefixes of its parameters' names in the model's state_dict. What no prefix
        matches is shared by all nodes (the fusion head). The order of the modalities is sent to
        the nodes.
    num_classes
        C, the length of the class statistics.
    method
        The local objective, by name or with hyperparameters; they are sent to the nodes under
        their configuration keys.
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
        Differential privacy. Where it is enabled, losses, numbers of samples, times and class
        statistics are not released, and :class:`PrivacyBudgetError` ends ``start`` before a
        round that would exceed the budget.
    wire_dtype
        What float32 weights travel in, "float32" or "float16"; nodes are told.
    weighted_by_key
        Key of a reply's number of samples, its weight.
    train_metrics_aggr_fn
        From the nodes' own numbers, one RecordDict a node, and the weight's key to what a round
        reports of them, as Flower's FedAvg takes it; None: weighted means.
    evaluate_metrics_aggr_fn
        The same for evaluations.
    **options
        Fields of ``sampling`` by name, as FedAvg takes them: ``fraction_train=0.5``.

    Raises
    ------
    ValueError
        Fewer than one modality, or a modality called "shared"; with ``privacy``, a method whose
        nodes send arrays of their own, evaluations on nodes, another aggregation than the mean,
        or ``max_example_ratio``.
    """

    def __init__(
        self,
        groups: Mapping[Modality, Sequence[str]],
        num_classes: int,
        method: Method | str = "fedcmi",
        *,
        seed: int = 0,
        sampling: Sampling = Sampling(),
        tolerance: Tolerance = Tolerance(),
        guards: Guards = Guards(),
        aggregation: RobustAggregation = RobustAggregation(),
        server_optimizer: ServerOptimizer = ServerOptimizer(),
        privacy: Privacy = NO_PRIVACY,
        wire_dtype: str = "float32",
        weighted_by_key: str = wire.NUM_EXAMPLES,
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        method = find(METHOD, method) if isinstance(method, str) else method
        sampling = sampling.changed(options)
        super().__init__(
            fraction_train=sampling.fraction_train,
            fraction_evaluate=sampling.fraction_evaluate,
            min_train_nodes=sampling.min_train_nodes,
            min_evaluate_nodes=1,
            min_available_nodes=sampling.min_available_nodes,
            weighted_by_key=weighted_by_key,
            train_metrics_aggr_fn=train_metrics_aggr_fn or mean_metrics,
            evaluate_metrics_aggr_fn=evaluate_metrics_aggr_fn or mean_metrics,
        )
        self.groups = checked_groups(groups)
        if privacy.enabled:
            check_protected(
                method, sampling.fraction_evaluate, aggregation.name, guards.max_example_ratio
            )

        self.num_classes = num_classes
        self.method = method
        self.method_name = name_of(method)
        self.evaluate_from = sampling.evaluate_from
        self.tolerance = tolerance
        self.guards = replace(guards, max_norm_ratio=0.0) if privacy.enabled else guards
        self.aggregation = aggregation
        self.privacy = privacy
        self.wire_dtype = wire_dtype

        self.nodes = NodeRegistry(
            tuple(self.groups), seed, sampling.min_available_nodes, sampling.wait_timeout
        )
        self.optimizers = GroupOptimizers(server_optimizer)
        self.dominance = NOBODY
        self.method_state: dict[str, AnyArray] = {}
        self.releases: dict[int, int] = {}
        """The account: partition id -> vectors of the node that went into noisy sums."""
        self.failures = FailureBudget(tolerance.failure_budget)
        self.rounds_done = 0
        """Rounds of an earlier process; Flower's ``start`` counts from 1 again, the hooks below
        go on from here."""
        self.model_average = ModelAverage(method.averaging)
        """What a round returns, and the weights behind it that the next one trains on."""
        self.why_unusable: Callable[[Mapping[str, AnyArray]], str] = lambda _: ""
        """From a new global model to what is wrong with it; such a round fails, and the model
        stays as it was."""
        self.good = LastGood()
        self.report = RoundReport(RoundPlan(0, num_classes))
        self._wrapper = WrapperCheck(tuple(self.groups))
        self._started = time.monotonic()
        self._evaluating: dict[int, wire.NodeInfo] = {}

    def state(self) -> ServerState:
        """Return what the next round needs besides the weights."""
        return ServerState(
            self.dominance, dict(self.method_state), self.optimizers.state(), dict(self.releases)
        )

    def resume(
        self,
        rounds_done: int,
        state: ServerState,
        nodes_remember: bool,
        good: LastGood | None = None,
    ) -> None:
        """Go on after a round of an earlier process.

        Call it before ``start``, with the weights after that round.

        Parameters
        ----------
        rounds_done
            Rounds that need not be done again; ``num_rounds`` of ``start`` is what is left.
        state
            What :meth:`state` gave after that round.
        nodes_remember
            Whether nodes still have what the method kept on them; where they do not, as after a
            new run id on real devices, the method drops what makes no sense without it.
        good
            Where the first round goes back to if all nodes find its model unusable; None: nowhere.
        """
        self.good = good or self.good
        self.rounds_done = rounds_done
        self.failures.renew()
        self.releases = dict(state.releases)
        method = dict(state.method) if nodes_remember else self.method.without_memory(state.method)
        self._restore(replace(state, method=method))
        logger.info("resumed after round %d; Flower's own lines count from 1 again", rounds_done)

    def _restore(self, state: ServerState) -> None:
        """Take a state over, but for the account: what was released stays released."""
        self.dominance = state.dominance
        self.method_state = dict(state.method)
        self.optimizers.restore(state.optimizer)

    def start(self, *args: Any, **options: Any) -> Result:  # noqa: ANN401
        """Run the rounds; arguments and result are those of Flower's strategies."""
        self._wrapper.own_start = True
        return super().start(*args, **options)

    def summary(self) -> None:
        """Log the strategy's settings.

        ``start`` calls it first, be it that of a wrapper, which is checked here.
        """
        self._wrapper.check(self.method)
        super().summary()
        logger.info("\t├──> Modalities: %s", ", ".join(self.groups))
        logger.info("\t└──> Method: %s", hyperparameters_of(self.method))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes and send each the groups it can use.

        Nothing where too few nodes can be used.
        """
        self._started = time.monotonic()
        self.nodes.learn(self.report.learned)
        self.nodes.ask_again(self.report.to_ask_again)
        plan = self._plan(
            server_round + self.rounds_done, self.model_average.training_weights(arrays), config
        )
        spent = self.privacy.spent(self.releases) if self.privacy.enabled else None
        self.report = report = RoundReport(plan, privacy=spent)
        try:
            chosen = self.nodes.sample(
                grid, plan.server_round, self.fraction_train, self.min_train_nodes, "train"
            )
        except RoundFailedError as error:
            report.failed = str(error)
            return []

        report.asking_seconds = time.monotonic() - self._started

        known = self._wrapper.seen(self.nodes.known)
        sent = {
            node: (known[node], groups_for(known[node].modalities, plan.names)) for node in chosen
        }
        report.plan = replace(plan, known=known, sent=sent)
        if self.privacy.enabled:
            self.releases = charge(report, self.privacy, self.releases, self.method)

        tasks = TaskMessages(plan, self.method, config, self.wire_dtype)
        messages = [tasks.train(node, known[node], self.method_state) for node in chosen]
        report.note_sent(messages)

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
            Replies in any order; it does not matter to the result. Each is let go before the
            next one is taken, so that with :class:`ArrivalGrid` the memory does not grow with
            their number (except with krum, which keeps all weights).

        Returns
        -------
        The new global model (None after a failed round, which leaves it as it was), and mean
        losses, samples and refused replies.

        Raises
        ------
        RoundFailedError
            One failed round too many, or a simulated actor died and would fail every later task.
        """
        with ReplyStore() as store:
            updates = read_updates(replies, self.report, self.method, self.method_state, store)
            if self.privacy.enabled:  # how many samples a node has is not released, nor of what
                updates = {
                    partition: replace(u, modality_examples={}) for partition, u in updates.items()
                }

            return self._aggregate_train(
                bound_updates(updates, self.report, self.guards, self.method)
            )

    def _aggregate_train(
        self, updates: Mapping[int, wire.NodeUpdate]
    ) -> tuple[ArrayRecord | None, MetricRecord]:
        report = self.report
        report.owners = owners_by_group(report.plan, updates, self.tolerance, self.aggregation)
        before = self.state()
        back = self.good.restore(report, unusable_groups(report, updates))
        reason = why_failed(report, len(updates), self.tolerance, self.aggregation)
        if reason:
            if report.rolled_back == list(report.plan.names) and self.good.state is not None:
                self._restore(self.good.state)

            arrays = {**report.plan.arrays, **back}  # before closing the round lets go of them
            failed = self._fail(reason)

            return (self.model_average.take_out(arrays, back) if back else None), failed

        ordered = [updates[partition] for partition in sorted(updates)]
        arrays = {**self._step(ordered), **back}
        reason = self.why_unusable(arrays)
        if reason:
            self._restore(before)
            return None, self._fail(f"round {report.plan.server_round}: {reason}")

        self.good.note(report.plan, report.owners, before)
        self.dominance = next_teacher(report, ordered, self.method, self.privacy)
        shown = self.model_average.add(arrays, back)
        if not self.privacy.enabled:
            note_training(updates, report)

        self.failures.renew()
        self._close()

        own = (
            []
            if self.privacy.enabled
            else [(update.metrics, update.num_examples) for update in ordered]
        )
        metrics = own_metrics(own, self.weighted_by_key, self.train_metrics_aggr_fn)
        metrics.update(report.numbers)

        return shown, metrics

    def _step(self, updates: Sequence[wire.NodeUpdate]) -> dict[str, AnyArray]:
        """Return the new global model and take the method's new state.

        What would not be finite keeps its value.
        """
        report, plan = self.report, self.report.plan
        trained = {group: names for group, names in plan.names.items() if report.owners[group]}
        with np.errstate(over="ignore", invalid="ignore"):
            averaged = average_updates(updates, plan, trained, self.aggregation, self.privacy)
            stepped = self.optimizers.step(plan.arrays, averaged, trained)
            from_method = [update.from_method for update in updates]
            state = self.method.combine(self.method_state, from_method, known_owners(plan))

        arrays, self.method_state = finite_or_kept(stepped, state, self.method_state, report)

        return arrays

    def _fail(self, reason: str) -> MetricRecord:
        """Note that the round failed; raise where that was one too many."""
        self.report.failed = reason
        self.failures.spend(reason)
        self._close()

        return MetricRecord({"refused": len(self.report.refused)})

    def _close(self) -> None:
        """End the round: the old model is not needed any more."""
        self.report.plan = replace(self.report.plan, arrays={})
        self.report.seconds = time.monotonic() - self._started

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes for evaluation on their own samples.

        Nothing when ``fraction_evaluate`` is 0.
        """
        server_round += self.rounds_done
        if self.fraction_evaluate == 0.0 or self.report.failed or server_round < self.evaluate_from:
            return []

        chosen = self.nodes.sample_evaluators(grid, server_round, self.fraction_evaluate)
        known = self._wrapper.seen(self.nodes.known)
        self._evaluating = {node: known[node] for node in chosen}
        plan = self._plan(
            server_round, {name: array.numpy() for name, array in arrays.items()}, config
        )
        tasks = TaskMessages(plan, self.method, config, self.wire_dtype)

        return [tasks.evaluate(node, info) for node, info in self._evaluating.items()]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up correct predictions and samples over nodes, then divide.

        Malformed and missing replies are noted.
        """
        asked, self._evaluating = self._evaluating, {}
        return evaluation_metrics(
            replies, asked, self.report, self.weighted_by_key, self.evaluate_metrics_aggr_fn
        )

    def _plan(
        self, server_round: int, arrays: Mapping[str, AnyArray], config: ConfigRecord
    ) -> RoundPlan:
        """Return a round's plan before anybody is chosen.

        ``config`` may have a name of its own for the method.
        """
        names, expected = group_names(tuple(arrays), self.groups), self.guards.expected
        plan = RoundPlan(
            server_round, self.num_classes, self.dominance, arrays, names, expected=expected
        )
        return replace(
            plan,
            method=str(config.get("method", self.method_name)),
            weight_key=self.weighted_by_key,
        )
