"""Replies put together from the pieces in which Flower's SuperLink keeps them, whatever was sent.

Flower's own ``HttpGrid`` trusts the pieces: one that cannot be read ends the run, an array may name
the same piece a million times, a piece that never comes is waited for far beyond the round, and a
reply says itself whose it is.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, Message, Metadata
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as SentMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import PULL_MAX_TIME
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid

from fedcmi_flwr import wire
from fedcmi_flwr.wire.packing import WireError

RATIO, ALWAYS_BYTES, ALWAYS_PIECES = 4, 2**22, 256
"""A reply may have so many times the bytes and the pieces of what it answers, and so many more.
What a method may add is bounded more closely where the reply is read."""
MOST_RECORDS = 64
"""Of a message: the project's have at most eight, and Flower's mods add one each."""
CHUNK = 20 * 2**20
"""Bytes of an array in a piece, as Flower cuts it."""


@dataclass(frozen=True)
class Allowance:
    """What a reply may be at most."""

    size: int = ALWAYS_BYTES
    """Bytes."""
    pieces: int = ALWAYS_PIECES


def allowance_of(message: Message) -> Allowance:
    """Return what the reply to a message may be."""
    pieces = 2 + len(message.content)
    for record in message.content.values():
        if isinstance(record, ArrayRecord):
            pieces += sum(2 + len(array.data) // CHUNK for array in record.values())

    return Allowance(
        RATIO * wire.content_bytes(message) + ALWAYS_BYTES, RATIO * pieces + ALWAYS_PIECES
    )


def pull_replies(
    grid: HttpGrid, allowances: Mapping[str, Allowance], seconds: Callable[[], float | None]
) -> Iterator[Message]:
    """Take the replies that are there, one after the other.

    Parameters
    ----------
    grid
        Connected to the SuperLink.
    allowances
        Id of a sent message -> what its reply may be.
    seconds
        Returns for how long a reply's pieces may be waited for; None: as long as Flower does.

    Yields
    ------
    The replies; one that cannot be put together is an error of the node that sent it.
    """
    response = grid._runtime_client.PullMessages(
        PullAppMessagesRequest(message_ids=list(allowances))
    )
    for sent, tree in zip(response.messages_list, response.message_object_trees, strict=True):
        # The SuperLink's own word, which it has checked
        metadata = metadata_from_proto(sent.metadata)
        allowed = allowances.get(metadata.reply_to_message_id, Allowance())
        try:
            yield _put_together(grid, sent, tree, metadata, allowed, seconds())
        except WireError as error:
            yield make_message(
                metadata=metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error))
            )


def _put_together(
    grid: HttpGrid,
    sent: SentMessage,
    tree: ObjectTree,
    metadata: Metadata,
    allowed: Allowance,
    seconds: float | None,
) -> Message:
    """Return one reply; WireError says why there is none."""
    names = list(dict.fromkeys(piece.object_id for piece in iterate_object_tree(tree)))
    if len(names) > allowed.pieces:
        raise WireError(f"it is in {len(names)} pieces, at most {allowed.pieces} are taken.")

    contents = _pull(grid, names, allowed.size, seconds)
    request = ConfirmMessageReceivedRequest(
        node=grid.node, run_id=metadata.run_id, message_object_id=sent.metadata.message_id
    )
    grid._runtime_client.ConfirmMessageReceived(request)

    return inflated(sent.metadata.message_id, contents, metadata, allowed)


def _pull(
    grid: HttpGrid, names: list[str], largest: int, seconds: float | None
) -> dict[str, bytes]:
    """Return the pieces by their ids; stop where there is more than is allowed."""
    pull = make_pull_object_fn_protobuf(grid._runtime_client.PullObject, grid.node, grid.run.run_id)
    taken: list[int] = []

    def counted(name: str) -> bytes:
        content = pull(name)
        taken.append(len(content))
        if sum(taken) > largest:
            raise ObjectPullError(name, f"it has more than {largest} bytes, and no more are taken.")

        return content

    try:
        return pull_objects(names, counted, max_time=PULL_MAX_TIME if seconds is None else seconds)
    except ObjectPullError as error:
        raise WireError(f"a piece of it could not be taken: {error}") from error


def inflated(
    name: str, contents: dict[str, bytes], metadata: Metadata, allowed: Allowance
) -> Message:
    """Put a reply together.

    Parameters
    ----------
    name
        Id of the piece that is the message.
    contents
        Piece's id -> its bytes, as the device sent them; empty afterwards.
    metadata
        What the SuperLink says of the message: whose it is, and what it answers.
    allowed
        What it may be.

    Returns
    -------
    The reply, with this metadata.

    Raises
    ------
    WireError
        The pieces make no message, or one that takes more memory than they have bytes.
    """
    try:
        _check_repeats(contents, allowed.size)
        found = inflate_object_from_contents(name, contents)
        if not isinstance(found, Message):
            raise WireError(f"its first piece is a {type(found).__name__}, not a message.")

        return _with(found, metadata)
    except WireError:
        raise
    except Exception as error:
        # Flower's readers raise anything from KeyError to MemoryError on another's bytes
        raise WireError(f"its pieces make no message: {error!r:.300}.") from error


def _with(found: Message, metadata: Metadata) -> Message:
    """Return a message's content or error, with this metadata instead of what the device says of
    itself.
    """
    if found.has_error():
        return make_message(metadata=metadata, error=found.error)
    if len(found.content) > MOST_RECORDS:
        raise WireError(f"it has {len(found.content)} records, at most {MOST_RECORDS} are read.")

    return make_message(metadata=metadata, content=found.content)


def _check_repeats(contents: Mapping[str, bytes], largest: int) -> None:
    """Refuse arrays that name pieces again and again, and so are far larger than what was sent."""
    total = 0
    for content in contents.values():
        if get_object_type_from_object_content(content) != "Array":
            continue

        chunks = get_object_children_ids_from_object_content(content)
        body = json.loads(get_object_body(content, Array))
        total += sum(len(contents[chunks[place]]) for place in body["arraychunk_ids"])
        if total > largest:
            raise WireError(
                f"its arrays name the same pieces again and again: more than {largest} bytes."
            )
