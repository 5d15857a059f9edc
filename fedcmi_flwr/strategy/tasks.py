"""What the server sends in a round: the same weights and settings to all nodes, cut to what each can use."""

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType

from fedcmi_flwr import wire
from fedcmi_flwr.methods import Method
from fedcmi_flwr.methods import hyperparameters as hyperparameters_of
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.strategy.groups import groups_of
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.types import SHARED, AnyArray
from fedcmi_flwr.wire.packing import WireError, pack


class TaskMessages:
    """The maker of a round's messages; nodes that own the same share their packed weights.

    Parameters
    ----------
    server_round
        From 1.
    values
        The global model: name -> array.
    names
        Group -> names of its arrays.
    method
        Its hyperparameters go along, and what its state has for a node.
    config
        What the user put into Flower's configuration of the task.
    dominance
        The server's decision.
    wire_dtype
        What float32 arrays travel in, both ways.
    """

    def __init__(
        self,
        server_round: int,
        values: Mapping[str, AnyArray],
        names: Mapping[str, tuple[str, ...]],
        method: Method,
        config: ConfigRecord,
        dominance: Dominance,
        wire_dtype: str,
    ) -> None:
        self._server_round = server_round
        self._values = values
        self._names = names
        self._method = method
        self._settings = {**hyperparameters_of(method), **config, "server-round": server_round}
        self._dominance = dominance
        self._wire_dtype = wire_dtype
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
        sent = [name for group in groups_of(info.modalities, self._names) for name in self._names[group]]
        return self._message(node, info, MessageType.TRAIN, self._method.for_node(state, info.modalities, sent))

    def evaluate(self, node: int, info: wire.NodeInfo) -> Message:
        """Return a node's evaluate message; parameters and errors as for :meth:`train`."""
        return self._message(node, info, MessageType.EVALUATE, {})

    def _message(self, node: int, info: wire.NodeInfo, kind: str, own: Mapping[str, AnyArray]) -> Message:
        groups = groups_of(info.modalities, self._names)
        if groups not in self._packed:
            try:
                self._packed[groups] = pack(self._values, {g: self._names[g] for g in groups}, self._wire_dtype)
            except WireError as error:
                raise RoundFailedError(
                    f"round {self._server_round}: the global model cannot be sent: {error}"
                ) from error
        modalities = tuple(name for name in self._names if name != SHARED)
        task = (self._packed[groups], self._settings, modalities, self._dominance, own, self._wire_dtype)
        return wire.task_message(node, kind, *task)
