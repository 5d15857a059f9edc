"""The query: the server asks a node what it owns, and reads the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from fedcmi_flwr.types import Modality
from fedcmi_flwr.wire.packing import FLAT, PLAIN, WireError
from fedcmi_flwr.wire.records import record

LARGEST_PARTITION_ID = 2**31 - 1
LONGEST_NAME = 100
"""Characters of the name of a device."""


@dataclass(frozen=True)
class NodeInfo:
    """What a node says about itself."""

    modalities: tuple[Modality, ...]
    partition_id: int
    packing: str = FLAT
    """How it wants its arrays: "flat", for :func:`read_task` and :func:`train_reply`, or
    "plain", one array per tensor as Flower's own apps read and send them."""
    declared: bool = True
    """False: the node has no query handler, and its first reply to a train message shows what it
    owns."""
    name: str = ""
    """What the device calls itself, "edge-2"; empty where it has no name."""


def query_message(node_id: int, server_round: int) -> Message:
    """Ask a node which modalities it owns (on the server)."""
    content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
    return Message(content, dst_node_id=node_id, message_type="query")


def query_reply(message: Message, info: NodeInfo) -> Message:
    """Answer a query (on the node)."""
    node = ConfigRecord({"modalities": list(info.modalities), "partition-id": info.partition_id})
    if info.name:
        node["name"] = info.name

    if info.packing != FLAT:
        node["packing"] = info.packing

    return Message(RecordDict({"node": node}), reply_to=message)


def read_query_reply(message: Message, modalities: Sequence[Modality]) -> NodeInfo:
    """Check and decode a node's answer (on the server).

    Parameters
    ----------
    message
        The reply.
    modalities
        All modalities of the federation.

    Returns
    -------
    The node's modalities in the federation's order, its partition id, and its device's name if
    it has one.

    Raises
    ------
    WireError
        No modality, one that the federation does not know, no partition id, an unknown packing,
        or a name that cannot be printed.
    """
    node = record(message, "node", ConfigRecord)
    names, partition, packing = (
        node.get("modalities"),
        node.get("partition-id"),
        node.get("packing", FLAT),
    )

    if not isinstance(names, list) or not names or not set(names) <= set(modalities):
        raise WireError(f"node: modalities = {names!r}, need one or more of {list(modalities)}.")

    if (
        not isinstance(partition, int)
        or isinstance(partition, bool)
        or not 0 <= partition <= LARGEST_PARTITION_ID
    ):
        raise WireError(
            f"node: partition-id = {partition!r}, need an integer from 0 (to "
            f"{LARGEST_PARTITION_ID})."
        )
    if packing not in (FLAT, PLAIN):
        raise WireError(f"node: packing = {packing!r}, need {FLAT!r} or {PLAIN!r}.")

    called = node.get("name", "")
    if not isinstance(called, str) or len(called) > LONGEST_NAME or not called.isprintable():
        raise WireError(
            f"node: name = {called!r:.100}, need up to {LONGEST_NAME} printable characters."
        )

    return NodeInfo(
        tuple(name for name in modalities if name in names), partition, str(packing), name=called
    )
