"""An in-process Grid.

A whole federation without Flower's processes, for tests and the experiment runner.

It calls the ClientApp directly, one node after the other, and keeps one Context per node. It
gives the same weights as a run on Ray. Flower's private task identity is touched in this file
only.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

logger = logging.getLogger("flwr.fedcmi")
CLIENT_APP_RAISED = 2
"""Flower's error code for a ClientApp that raised."""


class LocalGrid(Grid):
    """A Grid whose nodes are function calls.

    Parameters
    ----------
    client_app
        The app that every node runs.
    node_configs
        One node-config per node.
    run_config
        The run-config that every node sees.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any],
    ) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self._client_app = client_app
        self._run = Run.create_empty(run_id=1)
        self.contexts = {
            node_id: Context(1, node_id, dict(config), RecordDict(), dict(run_config))
            for node_id, config in enumerate(node_configs, start=1001)
        }
        self._message_ids = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message to a node."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the client app on each message at once and keep the replies."""
        ids = []
        for message in messages:
            message_id = str(next(self._message_ids))
            message.metadata.__dict__["_message_id"] = message_id
            self._replies[message_id] = self._call(message)
            ids.append(message_id)

        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, once."""
        return [
            self._replies.pop(message_id)
            for message_id in message_ids
            if message_id in self._replies
        ]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield one reply after the other, each made when it is asked for.

        ``timeout`` has no effect.
        """
        for message in messages:
            yield from self.pull_messages(self.push_messages([message]))

    def _call(self, message: Message) -> Message:
        context = self.contexts[message.metadata.dst_node_id]
        try:
            reply = self._client_app(message=message, context=context)
            if not isinstance(reply, Message):
                raise TypeError(
                    f"the client app's {message.metadata.message_type} function returned "
                    f"{type(reply).__name__}, need a Message: return objective.reply(...), or "
                    "Message(content, reply_to=message)"
                )

            return reply
        except Exception as error:  # as Flower does: any exception of an app becomes an error reply
            logger.debug("client app raised", exc_info=True)
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=CLIENT_APP_RAISED, reason=reason), reply_to=message)
