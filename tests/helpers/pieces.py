"""The pieces in which a reply travels, spoiled as a device may spoil them, and a SuperLink's store
of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.message_pb2 import Message as SentMessage
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid
from malformed import TRAPPED, _header, _zip

TYPES = [
    "Message",
    "RecordDict",
    "ArrayRecord",
    "MetricRecord",
    "ConfigRecord",
    "Array",
    "ArrayChunk",
]
CLAIMS = [
    ("<f4", "(1099511627776,)"), ("<f4", "(536870912,)"), ("<f4", "(-1,)"), ("|O", "(1,)"),
    ("|V0", "(1099511627776,)"), ("<U0", "(9223372036854775807,)"),
    ("<f4", "(2, 99999999999999999999)"), ("<f4", "(4294967296, 4294967296)"),
]  # fmt: skip
"""Kinds and shapes in the head of an array that has no more than the head."""
BAD_ARRAYS = [
    b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04]\x94.", TRAPPED, _zip(), _zip()[:-5],
    *(_header(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n") for kind, shape in CLAIMS),
    _header("(" * 3000), _header("__import__('os')\n"), _header(""),
]  # fmt: skip
"""Bytes that are no array, or claim to be a huge one."""
JSONS = [
    b"", b"null", b"3", b'"x"', b"[]", b"{}", b"[" * 10_000, b'{"a": 1}', b"\xff\xfe", b"NaN",
    b'{"arraychunk_ids": null}', b'{"arrays": "0", "arrays": "1"}', b"1" * 10_000,
]  # fmt: skip


@dataclass
class Pieces:
    """A reply in pieces."""

    root: str
    """Id of the piece that is the message."""
    contents: dict[str, bytes]
    sent: SentMessage
    """What the SuperLink knows of the message."""

    @classmethod
    def of(cls, reply: Message) -> "Pieces":
        """Cut a reply up, as Flower does."""
        with no_object_id_recompute():
            found = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
        proto = message_to_proto(reply if reply.has_error() else remove_content_from_message(reply))
        root = next(reversed(found))
        return cls(root, found, proto)

    def names(self, kind: str) -> list[str]:
        """Return the ids of the pieces of a kind."""
        return [
            name
            for name, content in self.contents.items()
            if content.startswith(kind.encode() + b" ")
        ]

    def exchange(self, old: str, content: bytes) -> None:
        """Put another content in a piece's place, under its own id, wherever another piece names
        it.
        """
        new = hashlib.sha256(content).hexdigest()
        if new == old:
            return
        del self.contents[old]
        self.contents[new] = content
        self.root = new if self.root == old else self.root
        for name, other in list(self.contents.items()):
            if old.encode() in other and name != new:
                self.exchange(name, other.replace(old.encode(), new.encode()))

    def rewrite(
        self, name: str, change: Callable[[str, list[str], bytes], tuple[str, list[str], bytes]]
    ) -> None:
        """Change a piece's kind, children and body.

        Its head stays well-formed, or no SuperLink would take it.
        """
        head, _, body = self.contents[name].partition(b"\0")
        kind, children, _ = head.decode().split(" ")
        kind, below, body = change(kind, [child for child in children.split(",") if child], body)
        self.exchange(name, f"{kind} {','.join(below)} {len(body)}".encode() + b"\0" + body)


def spoil(random: Random, pieces: Pieces) -> None:
    """Spoil one piece."""
    kind = random.choice([kind for kind in TYPES if pieces.names(kind)])
    name = random.choice(pieces.names(kind))
    how = random.choice(["body", "cut", "json", "kind", "children", "own", "own", "own"])

    def change(kind: str, children: list[str], body: bytes) -> tuple[str, list[str], bytes]:
        if how == "body":
            return kind, children, random.randbytes(random.choice([0, 1, 30, 3000]))
        if how == "cut":
            return kind, children, body[: random.randrange(len(body) + 1)]
        if how == "json":
            return kind, children, random.choice(JSONS)
        if how == "kind":
            return random.choice(TYPES), children, body
        if how == "children":
            leaves = [
                leaf
                for kind in ("ArrayChunk", "MetricRecord", "ConfigRecord")
                for leaf in pieces.names(kind)
            ]
            others = [leaf for leaf in leaves if leaf != name] or ["1" * 64]
            below = [
                children[1:],
                children * 2,
                [*children, random.choice(others)],
                [*children, "0" * 64],
                children[::-1],
            ]
            return kind, random.choice(below), body
        return kind, children, _own(random, kind, body)

    pieces.rewrite(name, change)


def _own(random: Random, kind: str, body: bytes) -> bytes:
    """Return a body that only pieces of this kind have, with something wrong."""
    if kind == "ArrayChunk":
        return random.choice(BAD_ARRAYS)
    if kind == "Array":
        found = json.loads(body)
        key = random.choice(list(found))
        values: dict[str, list[Any]] = {
            "arraychunk_ids": [
                [0] * (400_000 if random.random() < 0.05 else 9),
                [0, 0],
                [],
                [-1],
                [99],
                ["0"],
                [0.5],
                [[]],
                None,
                7,
                {"0": 0},
            ],
            "dtype": [3, None, "", "float64", "\x1b[2J", []],
            "shape": [[2**70], [-1], ["a"], [[1]], 5, None, [1] * 5_000],
            "stype": ["", "torch", 3, None, "numpy.ndarray\n"],
        }
        return json.dumps(found | {key: random.choice(values[key])}).encode()
    if kind in ("RecordDict", "ArrayRecord"):
        found = json.loads(body)
        first = next(iter(found.values()), "0" * 64)
        more = [
            {f"r{place}": first for place in range(10_000 if random.random() < 0.05 else 99)},
            {"\x1b[2J": first},
            {"": first},
            {"arrays": 3},
            {},
        ]
        return json.dumps(found | random.choice(more)).encode()
    if kind == "Message":
        message = SentMessage.FromString(body)
        if random.random() < 0.5:
            message.error.code, message.error.reason = (
                random.choice([0, 2, 8]),
                random.choice(["", "\n", "x" * 100_000]),
            )
        else:
            message.metadata.src_node_id, message.metadata.message_type = (
                random.choice([1001, 1004, 4242]),
                "system",
            )
        return bytes(message.SerializeToString())
    return body + random.choice([b"\x0a\x05", b"\xff" * 8, body, b"\x00"])


@dataclass
class SuperLink:
    """What answers Flower's grid: a real store of pieces, which takes what a SuperLink takes."""

    store: InMemoryObjectStore = field(default_factory=InMemoryObjectStore)
    replies: dict[str, Pieces] = field(default_factory=dict)
    """Id of the message that is answered -> reply."""

    def take(self, pieces: Pieces, missing: Iterable[str] = ()) -> None:
        """Take a reply from a device; the pieces in ``missing`` never come."""
        below = [ObjectTree(object_id=name) for name in pieces.contents if name != pieces.root]
        tree = ObjectTree(object_id=pieces.root, children=below)
        self.store.preregister(1, tree)
        for name, content in pieces.contents.items():
            if name not in set(missing):
                self.store.put(name, content)
        pieces.sent.metadata.message_id = pieces.root
        self.replies[pieces.sent.metadata.reply_to_message_id] = pieces

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        """Return the replies that are there, each once."""
        found = [self.replies.pop(name) for name in request.message_ids if name in self.replies]
        trees = [self.store.get_object_tree(pieces.root) for pieces in found]
        return PullAppMessagesResponse(
            messages_list=[each.sent for each in found], message_object_trees=trees
        )

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        """Return a piece."""
        content = self.store.get(request.object_id)
        there = content is not None and self.store.store[request.object_id].is_available
        return PullObjectResponse(
            object_found=content is not None, object_available=there, object_content=content or b""
        )

    def ConfirmMessageReceived(self, _: Any) -> ConfirmMessageReceivedResponse:  # noqa: N802
        """Take note."""
        return ConfirmMessageReceivedResponse()


class Line(HttpGrid):
    """Flower's grid for deployments, with a SuperLink in this process and devices that are one
    function.

    Parameters
    ----------
    nodes
        Ids of the connected nodes.
    answer
        From a message to its reply in pieces; None: no reply.
    """

    def __init__(self, nodes: Iterable[int], answer: Callable[[Message], Pieces | None]) -> None:
        super().__init__(token="none")
        self.nodes, self.answer, self.superlink = list(nodes), answer, SuperLink()
        self._client = self.superlink  # type: ignore[assignment]
        self.set_run(Run.create_empty(run_id=1))

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, which are answered at once."""
        names = []
        self.superlink.store = InMemoryObjectStore()  # those of the last round are gone
        for message in messages:
            with no_object_id_recompute():
                names.append(message.object_id)
            message.metadata.__dict__["_message_id"] = names[-1]
            pieces = self.answer(message)
            if pieces is not None:
                self.superlink.take(pieces)
        return names
