"""What the server asks in a round, and of whom."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from fedcmi_flwr import wire
from fedcmi_flwr.machine.node_names import called
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.strategy.expected import ANY_NAMES, ExpectedNames
from fedcmi_flwr.types import AnyArray


@dataclass(frozen=True)
class RoundPlan:
    """What was decided before the first reply."""

    server_round: int
    """From 1; 0: before the first round."""
    num_classes: int = 0
    """C, the length of the class statistics."""
    used: Dominance = NOBODY
    """The decision that was sent."""
    arrays: Mapping[str, AnyArray] = field(default_factory=dict)
    """The global model that was sent; empty once the round is over."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Group -> names of its arrays."""
    known: Mapping[int, wire.NodeInfo] = field(default_factory=dict)
    """Node id -> what it owns, of every node that could have been sampled."""
    sent: Mapping[int, tuple[wire.NodeInfo, tuple[str, ...]]] = field(default_factory=dict)
    """Node id -> (what it owns, groups sent), of the nodes that are asked to train."""
    expected: ExpectedNames = ANY_NAMES
    """What replies may speak of."""
    method: str = ""
    """Name of the method that the nodes are asked for."""
    weight_key: str = wire.NUM_EXAMPLES
    """Key of a reply's number of samples."""

    @property
    def groups_by_partition(self) -> dict[int, tuple[str, ...]]:
        """Partition id -> groups sent."""
        return {info.partition_id: groups for info, groups in self.sent.values()}

    def narrowed(self, node: int, names: Collection[str]) -> tuple[wire.NodeInfo, tuple[str, ...]]:
        """Return what a node that declared nothing turns out to own, by the names of the arrays in
        its reply.

        Parameters
        ----------
        node
            Its id.
        names
            Of the arrays that it sent back.

        Returns
        -------
        What it owns, and the groups; the modalities are none where no group of one is whole.
        """
        info, groups = self.sent[node]
        whole = tuple(group for group in groups if set(self.names[group]) <= set(names))
        return replace(
            info, modalities=tuple(name for name in info.modalities if name in whole)
        ), whole

    def sent_to(self, node: int) -> dict[str, AnyArray]:
        """Return the arrays that a node was sent: name -> array."""
        _, groups = self.sent[node]
        return {name: self.arrays[name] for group in groups for name in self.names[group]}

    def describe(self, node: int) -> str:
        """Return what the node is called and, where it was sent something, its partition and
        modalities.
        """
        if node not in self.sent:
            return called(node, self.known[node].name if node in self.known else "")

        info, _ = self.sent[node]
        return (
            f"{called(node, info.name)} (partition {info.partition_id}, "
            f"{'+'.join(info.modalities)})"
        )
