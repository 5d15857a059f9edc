"""Replies as they arrive, instead of all at once when the last one is there."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedcmi_flwr.strategy.pulled import Allowance, allowance_of, pull_replies

AT_ONCE = 4
"""Replies that are in memory together at most."""
POLL_SECONDS = 0.5
"""Longest time between two looks for replies where the last one found none; Flower's own is 3 s."""
FIRST_POLL_SECONDS = 0.01
"""Shortest."""
LEAST_WAIT = 10.0
"""Seconds for the pieces of a reply that is there at the very end of its round."""
POLL_SHARE = 0.1
"""Of the time since something was found, until the next look: short work waits shortly."""


class ArrivalGrid(Grid):
    """A Grid whose :meth:`send_and_receive` hands out each reply as soon as it is there.

    All else is the inner one's.

    Parameters
    ----------
    grid
        Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._allowed: dict[str, Allowance] = {}
        """Id of a message that waits for its reply -> what that may be."""

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids."""
        sent = list(messages)
        allowed = [allowance_of(message) for message in sent]
        names = list(self._grid.push_messages(sent))
        # Flower returns none where all are too large
        self._allowed.update(zip(names, allowed, strict=False))

        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there.

        What a device sent in pieces that make no reply is an error of its.
        """
        return self._pull(list(message_ids), None)

    def _pull(self, message_ids: list[str], deadline: float | None) -> Iterable[Message]:
        """Return the replies that are there, and wait for what is missing of them until the
        deadline.
        """
        if not isinstance(self._grid, HttpGrid):
            return self._grid.pull_messages(message_ids)

        def seconds() -> float | None:
            return None if deadline is None else max(deadline - time.monotonic(), LEAST_WAIT)

        allowed = {name: self._allowed.get(name, Allowance()) for name in message_ids}

        return pull_replies(self._grid, allowed, seconds)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and return an iterator that waits for their replies, in the order of
        arrival.

        Parameters
        ----------
        messages
            What to send.
        timeout
            Seconds from now after which no reply is waited for; None: no limit.

        Returns
        -------
        Iterator over the replies.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # None: Flower could not send it
        sent = [name for name in self.push_messages(messages) if name]
        return self._arriving(sent, deadline)

    def _arriving(self, waiting: list[str], deadline: float | None) -> Iterator[Message]:
        """Ask for a few at a time, so that no more are in memory however many have arrived."""
        last = time.monotonic()
        while waiting:
            found, unanswered = 0, []
            ids = iter(waiting)
            while chosen := list(islice(ids, AT_ONCE)):
                replies = deque(self._pull(chosen, deadline))
                answered = {reply.metadata.reply_to_message_id for reply in replies}
                unanswered += [name for name in chosen if name not in answered]
                found += len(replies)

                for name in answered:
                    self._allowed.pop(name, None)

                while replies:
                    yield replies.popleft()

            waiting = unanswered
            if deadline is not None and time.monotonic() >= deadline:
                return

            if found:
                last = time.monotonic()
            elif waiting:
                quiet = time.monotonic() - last
                time.sleep(min(POLL_SECONDS, max(FIRST_POLL_SECONDS, POLL_SHARE * quiet)))
