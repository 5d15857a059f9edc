"""What the server sends in a round.

The same weights and settings to all nodes, cut to what each can use.
"""

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType

from fedcmi_flwr import wire
from fedcmi_flwr.methods import Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.strategy.groups import groups_for
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.types import SHARED, AnyArray


class TaskMessages:
    """The maker of a round's messages; nodes that own the same share their packed weights.

    Parameters
    ----------
    plan
        The round's: the weights that are sent, their groups and the server's decision.
    method
        Its hyperparameters go along, and what its state has for a node.
    config
        What the user put into Flower's configuration of the task.
    wire_dtype
        What float32 arrays travel in, both ways.
    """

    def __init__(
        self, plan: RoundPlan, method: Method, config: ConfigRecord, wire_dtype: str
    ) -> None:
        self._plan = plan
        self._method = method
        told = {
            "method": plan.method,
            "num-classes": plan.num_classes,
            **hyperparameters_of(method),
        }
        self._settings = {**told, **config, "server-round": plan.server_round}
        self._wire_dtype = wire_dtype
        self._plain: dict[tuple[str, ...], ArrayRecord] = {}
        self._packed: dict[tuple[str, ...], tuple[ArrayRecord, ConfigRecord]] = {}

    def train(self, node: int, info: wire.NodeInfo, state: Mapping[str, AnyArray]) -> Message:
        """Return a node's train message.

        Parameters
        ----------
        node
            Its id.
        info
            What it owns.
        state
            The method's, on the server.

        Returns
        -------
        The message.

        Raises
        ------
        RoundFailedError
            A weight is beyond the range of the dtype that it travels in.
        """
        names = self._plan.names
        sent = [name for group in groups_for(info.modalities, names) for name in names[group]]
        return self._message(
            node, info, MessageType.TRAIN, self._method.for_node(state, info.modalities, sent)
        )

    def evaluate(self, node: int, info: wire.NodeInfo) -> Message:
        """Return a node's evaluate message; parameters and errors as for :meth:`train`."""
        return self._message(node, info, MessageType.EVALUATE, {})

    def _message(
        self, node: int, info: wire.NodeInfo, kind: str, from_method: Mapping[str, AnyArray]
    ) -> Message:
        groups = groups_for(info.modalities, self._plan.names)
        packed = self._plain_for(groups) if info.packing == wire.PLAIN else self._packed_for(groups)
        modalities = tuple(name for name in self._plan.names if name != SHARED)
        task = (packed, self._settings, modalities, self._plan.used, from_method, self._wire_dtype)

        return wire.task_message(node, kind, *task)

    def _plain_for(self, groups: tuple[str, ...]) -> tuple[ArrayRecord, dict[str, tuple[str, ...]]]:
        """Return the weights of these groups one by one, made once, and their names."""
        names = {group: self._plan.names[group] for group in groups}
        if groups not in self._plain:
            self._plain[groups] = wire.pack_plain(self._plan.arrays, names)

        return self._plain[groups], names

    def _packed_for(self, groups: tuple[str, ...]) -> tuple[ArrayRecord, ConfigRecord]:
        """Return the weights of these groups, packed once."""
        if groups not in self._packed:
            names = {group: self._plan.names[group] for group in groups}
            try:
                self._packed[groups] = wire.pack(self._plan.arrays, names, self._wire_dtype)
            except wire.WireError as error:
                where = f"round {self._plan.server_round}"
                raise RoundFailedError(
                    f"{where}: the global model cannot be sent: {error}"
                ) from error

        return self._packed[groups]
