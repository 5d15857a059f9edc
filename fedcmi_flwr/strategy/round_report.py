"""What a round found: filled by the strategy, written down by the server."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from flwr.app import Message

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.strategy.outliers import Extent
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.types import ClassStats
from fedcmi_flwr.wire.text import one_line

logger = logging.getLogger("flwr.fedcmi")


@dataclass
class RoundReport:
    """What happened in one round."""

    plan: RoundPlan
    """What was asked."""
    failed: str = ""
    """Why the round failed and the model stayed as it was; empty for a round that did not."""
    refused: list[str] = field(default_factory=list)
    """One line per node whose reply was refused or did not come."""
    bounded: list[str] = field(default_factory=list)
    """One line per clip, cap or group that would not have been finite (``guards.py``)."""
    to_ask_again: set[int] = field(default_factory=set)
    """Ids of the nodes that were refused: they may no longer be what they said they were."""

    diverged: set[int] = field(default_factory=set)
    """Partition ids of the nodes that say that training on the received model diverged."""
    rolled_back: list[str] = field(default_factory=list)
    """Groups that all nodes found unusable, and that went back to the weights before."""
    extents: dict[int, dict[str, Extent]] = field(default_factory=dict)
    """Partition id -> how far each group of its reply goes; not written down."""
    owners: dict[str, list[int]] = field(default_factory=dict)
    """Group -> partition ids whose updates were averaged."""
    examples: dict[int, int] = field(default_factory=dict)
    """Partition id -> training samples, of the nodes whose updates were averaged; empty with
    :attr:`privacy`."""
    losses: dict[str, float] = field(default_factory=dict)
    """Loss term -> mean over the samples of the nodes that have the term, in nats, without
    weight; empty with :attr:`privacy`."""
    stats: ClassStats = field(default_factory=lambda: ClassStats({}, {}))
    """Class statistics added up over nodes; empty with :attr:`privacy`."""
    measured: Dominance = NOBODY
    """What this round's statistics say; sent in the next round."""
    evaluated: dict[str, Counts] = field(default_factory=dict)
    """What nodes counted on their own test samples, added up; empty unless ``fraction_evaluate``
    is above 0."""
    evaluated_by: dict[int, dict[str, Counts]] = field(default_factory=dict)
    """Partition id -> what that node counted."""
    privacy: dict[str, float] | None = None
    """"epsilon" and "delta" after the round; None: no differential privacy."""

    node_metrics: dict[int, dict[str, float | list[float]]] = field(default_factory=dict)
    """Partition id -> numbers of the node's own, from the last evaluation; the strategy averages
    them."""
    node_weights: dict[int, int] = field(default_factory=dict)
    """Partition id -> samples that it evaluated."""
    learned: dict[int, tuple[wire.NodeInfo, tuple[str, ...]]] = field(default_factory=dict)
    """Node id -> what it turned out to own, and the groups, of the nodes that declared nothing."""

    bytes_down: dict[int, int] = field(default_factory=dict)
    """Partition id -> bytes of the train message."""
    bytes_up: dict[int, int] = field(default_factory=dict)
    """Partition id -> bytes of the reply, refused ones included; with :attr:`privacy` of its
    arrays alone, since the bytes of its metrics vary with the counts in them."""
    train_seconds: dict[int, float] = field(default_factory=dict)
    """Partition id -> seconds that training took on the node, where it says so and its update
    was averaged; empty with :attr:`privacy`."""
    asking_seconds: float = 0.0
    """From the start of sampling until it was known which nodes train; in a simulation's first
    round their processes start meanwhile."""
    seconds: float = 0.0
    """From the start of sampling to the end of aggregation."""

    @property
    def num_examples(self) -> int:
        """Training samples of the nodes whose updates were averaged."""
        return sum(self.examples.values())

    @property
    def numbers(self) -> dict[str, int | float]:
        """What Flower's history gets of the round.

        Mean losses, samples, refused replies, and the privacy spent.
        """
        losses = {f"loss.{name}": value for name, value in self.losses.items()}
        counts = {"num-examples": self.num_examples, "refused": len(self.refused)}
        return {**losses, **counts, **(self.privacy or {})}

    def note_sent(self, messages: Iterable[Message]) -> None:
        """Take the bytes of the train messages."""
        for message in messages:
            info = self.plan.known[message.metadata.dst_node_id]
            self.bytes_down[info.partition_id] = wire.content_bytes(message)

    def learn(self) -> None:
        """Take what nodes turned out to own for what they were sent.

        Nobody waits for the rest of them.
        """
        self.plan = replace(self.plan, sent={**self.plan.sent, **self.learned})

    def refuse(self, node: int, line: str) -> None:
        """Note and log that a node's reply cannot be used; ``line`` says which node and why."""
        self.to_ask_again.add(node)
        self._note(
            self.refused, line, f"{self.plan.describe(node)}: the reason is in the server's log."
        )

    def bound(self, line: str) -> None:
        """Note and log that something was kept within bounds.

        ``line`` says of which node and why.
        """
        self._note(
            self.bounded, line, "Something was kept within bounds: what is in the server's log."
        )

    def _note(self, lines: list[str], line: str, private: str) -> None:
        """Log a line and note it.

        With :attr:`privacy` note another, since a line may quote what a node sent.
        """
        line = one_line(line)
        lines.append(line if self.privacy is None else private)
        logger.warning("round %d: %s", self.plan.server_round, line)
