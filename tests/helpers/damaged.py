"""A grid on which single floats of replies are damaged on their way."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, Message

from client_app.app import app as client_app
from fedcmi_flwr.simulation.local_grid import LocalGrid

Damage = Callable[[int, int], dict[str, float]]
"""From round and partition to array of the reply -> what its first number becomes."""


class DamagedGrid(LocalGrid):
    """The nodes are real; what they send back is changed."""

    def __init__(self, nodes: int, raw: dict[str, Any], damage: Damage) -> None:
        configs: Sequence[dict[str, Any]] = [
            {"partition-id": i, "num-partitions": nodes} for i in range(nodes)
        ]
        super().__init__(client_app, configs, raw)
        self.damage = damage

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass replies on, train replies with their damage."""
        for message in messages:
            for reply in super().send_and_receive([message]):
                if message.metadata.message_type == "train" and reply.has_content():
                    self._damage(message, reply)
                yield reply

    def _damage(self, message: Message, reply: Message) -> None:
        partition = int(self.contexts[message.metadata.dst_node_id].node_config["partition-id"])
        for name, value in self.damage(
            message.content["config"]["server-round"], partition
        ).items():
            if name not in reply.content["arrays"]:  # this node owns none of it
                continue
            numbers = reply.content["arrays"][name].numpy().copy()
            numbers.reshape(-1)[0] = np.float32(value)
            reply.content["arrays"][name] = Array(numbers)
