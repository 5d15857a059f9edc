"""From the replies of an evaluation to what each node counted.

Malformed and missing ones are refused by name.
"""

from collections.abc import Iterable, Mapping

from flwr.app import Message, MetricRecord

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.strategy.averages import MetricsAggregation, own_metrics
from fedcmi_flwr.strategy.nodes import content_of
from fedcmi_flwr.strategy.round_report import RoundReport


def evaluation_metrics(
    replies: Iterable[Message],
    asked: Mapping[int, wire.NodeInfo],
    report: RoundReport,
    weight_key: str,
    aggregate: MetricsAggregation,
) -> MetricRecord | None:
    """Put what nodes counted into the report, and return what Flower's history gets of it.

    Parameters
    ----------
    replies
        As for :func:`read_evaluations`.
    asked
        As for :func:`read_evaluations`.
    report
        The round's; gets the counts and the refusals.
    weight_key
        Key of a reply's number of samples.
    aggregate
        What becomes of the nodes' own numbers.

    Returns
    -------
    Accuracies, and the nodes' own numbers; None where nobody evaluated.
    """
    report.evaluated_by = read_evaluations(replies, asked, report)
    report.evaluated = add_up(report.evaluated_by.values())
    if not report.evaluated_by:
        return None

    weighted = [
        (report.node_metrics[p], report.node_weights[p]) for p in sorted(report.evaluated_by)
    ]
    metrics = own_metrics(weighted, weight_key, aggregate)
    metrics.update({f"accuracy.{name}": found.accuracy for name, found in report.evaluated.items()})

    return metrics


def read_evaluations(
    replies: Iterable[Message], asked: Mapping[int, wire.NodeInfo], report: RoundReport
) -> dict[int, dict[str, Counts]]:
    """Decode and check what nodes counted on their own test samples.

    Parameters
    ----------
    replies
        In any order; among them may be errors, doubles and what nobody asked for.
    asked
        Node id -> what it owns, of the nodes that were asked.
    report
        The round's; gets the refusals.

    Returns
    -------
    Partition id -> prediction -> counts, in the order of the replies.
    """
    found: dict[int, dict[str, Counts]] = {}
    silent = dict(asked)
    for message in replies:
        node = message.metadata.src_node_id
        info = silent.pop(node, None)
        try:
            content = content_of(message)
            if info is None:
                raise wire.WireError("it was not asked in this round, or answered before.")

            plan, partition = report.plan, info.partition_id
            wire.check_size(content, {}, plan.num_classes)
            counts = wire.read_evaluate_reply(content, plan.num_classes, plan.weight_key)
            plan.expected.check_predictions(counts)
            report.node_metrics[partition] = wire.evaluate_metrics(content, plan.weight_key)
            report.node_weights[partition] = wire.evaluate_weight(content, plan.weight_key)
            found[partition] = counts
        except wire.WireError as error:
            report.refuse(node, f"Evaluation of {report.plan.describe(node)} refused: {error}")

    for node in sorted(silent):
        report.refuse(
            node, f"No evaluation of {report.plan.describe(node)}. The round's time is over."
        )

    return found


def add_up(counts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Return the sum over nodes of each prediction's counts."""
    totals: dict[str, Counts] = {}
    for own in counts:
        for name, found in own.items():
            totals[name] = totals[name] + found if name in totals else found

    return totals
