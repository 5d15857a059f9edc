"""The nodes of a federation as the server knows them.

Who is connected, who owns what, who takes part in a round.
"""

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from flwr.app import Message
from flwr.serverapp import Grid

from fedcmi_flwr import wire
from fedcmi_flwr.machine.node_names import called
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality
from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.text import one_line

logger = logging.getLogger("flwr.fedcmi")
NO_HANDLER = "No query function registered"
"""What Flower says of an app without a query handler."""
LONGEST_PAUSE = 8
"""Rounds after which a node that cannot be used is asked again, at most."""
POLL_SECONDS = 1.0
"""Time between two looks at the connected nodes while waiting for them."""


class RoundFailedError(RuntimeError):
    """A round that cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Unusable:
    """A connected node that cannot be used."""

    reason: str
    pause: int
    """Rounds until it is asked again, since what is wrong may be mended meanwhile; doubles up to
    ``LONGEST_PAUSE``."""
    ask_in: int
    """The round in which it is asked again."""


class NodeRegistry:
    """Asks every unknown node what it owns, and samples partitions.

    Parameters
    ----------
    modalities
        All modalities of the federation.
    seed
        Seed of the sampling.
    min_available_nodes
        Nodes to wait for before a round starts.
    wait_timeout
        Seconds to wait for these nodes, and for the answers to queries.
    """

    def __init__(
        self,
        modalities: tuple[Modality, ...],
        seed: int,
        min_available_nodes: int,
        wait_timeout: float,
    ) -> None:
        self.modalities = modalities
        self.seed = seed
        self.min_available_nodes = min_available_nodes
        self.wait_timeout = wait_timeout
        self.known: dict[int, wire.NodeInfo] = {}
        self.holders: dict[int, int] = {}
        """Partition id -> connected node that has it, also while that node is asked again."""
        self.unusable: dict[int, Unusable] = {}
        """Node id -> why it cannot be used, and when it is asked again while it stays connected."""

    def ask_again(self, node_ids: Iterable[int]) -> None:
        """Forget what nodes said they own, so that they are asked before their next turn."""
        self.known = {node: info for node, info in self.known.items() if node not in set(node_ids)}

    def sample(
        self, grid: Grid, server_round: int, fraction: float, least: int, purpose: str
    ) -> list[int]:
        """Sample partition ids, not node ids (those are random per run), and return their nodes in
        that order.

        Parameters
        ----------
        grid
            Where the nodes are connected.
        server_round
            Counted from 1.
        fraction
            Share of the available nodes, in (0, 1].
        least
            Fewest nodes, where there are that many.
        purpose
            "train" or "evaluate"; each has random numbers of its own.

        Returns
        -------
        Node ids in the order of their partition ids.

        Raises
        ------
        RoundFailedError
            Too few usable nodes within ``wait_timeout``, or nodes that cannot be used and too
            few others.
        """
        ready = self._available(grid, server_round)
        by_partition = {self.known[node].partition_id: node for node in ready}
        size = min(max(int(len(ready) * fraction), least), len(ready))
        generator = numpy_generator(self.seed, f"sample-{purpose}", server_round)
        partitions = generator.choice(sorted(by_partition), size=size, replace=False)
        logger.info("configure_%s: sampled %d of %d nodes", purpose, size, len(ready))

        return [by_partition[int(partition)] for partition in sorted(partitions)]

    def sample_evaluators(self, grid: Grid, server_round: int, fraction: float) -> list[int]:
        """Return the nodes that evaluate, as :meth:`sample` does.

        None where too few nodes can be used.
        """
        try:
            return self.sample(grid, server_round, fraction, 1, "evaluate")
        except RoundFailedError as error:
            logger.warning("nobody evaluates: %s", error)
            return []

    def _available(self, grid: Grid, server_round: int) -> list[int]:
        """Return connected nodes that said what they own.

        Wait for ``min_available_nodes`` of them, with a bound.
        """
        deadline = time.monotonic() + self.wait_timeout
        while True:
            connected = set(grid.get_node_ids())
            self.known = {node: info for node, info in self.known.items() if node in connected}
            self.unusable = {
                node: found for node, found in self.unusable.items() if node in connected
            }
            self.holders = {
                partition: node for partition, node in self.holders.items() if node in connected
            }
            resting = {node for node, found in self.unusable.items() if found.ask_in > server_round}
            self._query(grid, sorted(connected - set(self.known) - resting), server_round)
            if len(self.known) >= self.min_available_nodes:
                return sorted(self.known)

            found = f"{len(self.known)} of {len(connected)} connected nodes can be used"
            if len(connected) >= self.min_available_nodes and self.unusable:
                node = min(self.unusable)
                raise RoundFailedError(
                    f"round {server_round}: {found}. {called(node)}: {self.unusable[node].reason}"
                )

            if time.monotonic() > deadline:
                raise RoundFailedError(
                    f"round {server_round}: {found} after {self.wait_timeout:.0f} s "
                    f"(wait-timeout), but min-available-nodes = {self.min_available_nodes}. Start "
                    "more SuperNodes or lower it."
                )

            time.sleep(POLL_SECONDS)

    def _query(self, grid: Grid, node_ids: list[int], server_round: int) -> None:
        """Ask nodes what they own.

        Note why a node cannot be used: an error, nonsense, or no answer in time.
        """
        if not node_ids:
            return

        silent = (
            f"no answer to the query within {self.wait_timeout:.0f} s (wait-timeout); restart it."
        )
        reasons = dict.fromkeys(node_ids, silent)
        waiting, undeclared = set(node_ids), list[int]()
        messages = [wire.query_message(node, server_round) for node in node_ids]
        for message in grid.send_and_receive(messages, timeout=self.wait_timeout):
            node = message.metadata.src_node_id
            if node not in waiting:
                logger.warning(
                    "query: an answer of %s, which was not asked or answered before, is left",
                    called(node),
                )
                continue

            waiting.remove(node)
            try:
                content = content_of(message)
                wire.check_size(content, {}, 0)
                info = wire.read_query_reply(content, self.modalities)
                self._take_partition(node, info)
            except WireError as error:
                if NO_HANDLER in str(error):
                    undeclared.append(node)
                    del reasons[node]
                else:
                    reasons[node] = one_line(str(error))

                continue

            self.known[node] = info
            self.unusable.pop(node, None)
            del reasons[node]

        for node in sorted(undeclared):
            self._assume_all(node)

        for node, reason in reasons.items():
            pause = (
                min(2 * self.unusable[node].pause, LONGEST_PAUSE) if node in self.unusable else 1
            )
            logger.warning(
                "query: %s cannot be used: %s It is asked again in %d round(s).",
                called(node),
                reason,
                pause,
            )
            self.unusable[node] = Unusable(reason, pause, server_round + pause)

    def _assume_all(self, node: int) -> None:
        """Take a node that has no query handler for one that owns everything, until its first reply
        says what.
        """
        own = [partition for partition, holder in self.holders.items() if holder == node]
        free = (
            own[0]
            if own
            else next(partition for partition in count() if partition not in self.holders)
        )
        info = wire.NodeInfo(self.modalities, free, wire.PLAIN, declared=False)
        self._take_partition(node, info)
        self.known[node] = info
        self.unusable.pop(node, None)

    def learn(self, found: Mapping[int, tuple[wire.NodeInfo, tuple[str, ...]]]) -> None:
        """Take what the replies of nodes without a query handler showed."""
        self.known |= {node: info for node, (info, _) in found.items() if node in self.known}

    def _take_partition(self, node: int, info: wire.NodeInfo) -> None:
        holder = self.holders.get(info.partition_id, node)
        if (
            holder != node
            and holder in self.known
            and not self.known[holder].declared
            and info.declared
        ):
            self.holders[info.partition_id] = node
            self._assume_all(holder)  # its number was a guess

        if self.holders.get(info.partition_id, node) != node:
            raise WireError(
                f"partition-id {info.partition_id} is taken by another node; give each node its "
                "own in --node-config."
            )

        self.holders = {
            partition: holder for partition, holder in self.holders.items() if holder != node
        }
        self.holders[info.partition_id] = node


def content_of(message: Message) -> Message:
    """Return the message if it has content.

    Raise WireError with Flower's code and reason if it is an error.

    Ray's reasons hold a whole traceback; its last line says what happened.
    """
    if message.has_error():
        _raise_if_pool_is_poisoned(message)
        reason = str(message.error.reason).strip().splitlines() or ["no reason given"]
        logger.debug("error of node %d: %s", message.metadata.src_node_id, message.error.reason)
        raise WireError(f"error {message.error.code}: {reason[-1]}")

    return message


def _raise_if_pool_is_poisoned(message: Message) -> None:
    """Stop the run when a Ray actor died.

    Flower puts it back into the pool, where it fails every later task.

    Only in a simulation, where Flower runs Ray in the server's process: on devices anybody may
    say such a thing.
    """
    if (
        "ray" in sys.modules
        and message.error.code == 0
        and "ray.exceptions" in str(message.error.reason)
    ):
        raise RoundFailedError(
            f"a simulated client's process died ({message.error.reason}). Its actor would fail "
            "every later task: start the run again; if memory ran out, give each client more or "
            "run fewer at once."
        )
