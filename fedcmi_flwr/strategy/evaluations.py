"""From the replies of an evaluation to what each node counted: malformed and missing ones are refused by name."""

from collections.abc import Iterable, Mapping

from flwr.app import Message

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.strategy.nodes import content_of
from fedcmi_flwr.strategy.round_report import RoundReport


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
            counts = wire.read_evaluate_reply(content, report.plan.num_classes)
            report.plan.expected.check_predictions(counts)
            found[info.partition_id] = counts
        except wire.WireError as error:
            who = asked[node].title(node) if node in asked else f"node {node}"
            report.refuse(node, f"Evaluation of {who} refused: {error}")

    for node in sorted(silent):
        report.refuse(node, f"No evaluation of {report.plan.describe(node)}. The round's time is over.")
    return found


def add_up(counts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Return the sum over nodes of each prediction's counts."""
    totals: dict[str, Counts] = {}
    for own in counts:
        for name, found in own.items():
            totals[name] = totals[name] + found if name in totals else found
    return totals
