"""Replies as a hostile or broken node may send them, drawn by hypothesis from good ones."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import strategies as st

from fedcmi_flwr import wire

FOREIGN = 4242
"""Id of a node that nobody asked."""
Draw = Callable[[st.SearchStrategy[Any]], Any]
unpickled: list[str] = []
"""Gets a line when somebody unpickles a :class:`Trap`."""


def note_unpickling() -> None:
    """Note that a trap was unpickled."""
    unpickled.append("unpickled")


class Trap:
    """What notes that somebody unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what unpickling calls.

        A function, since a method would be unpickled with a list of its own.
        """
        return note_unpickling, ()


NUMBERS = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2,
            2**31,
            2**53,
            2**62,
            2**63 - 1,
            -(2**63),
            0.0,
            -0.0,
            0.5,
            1.5,
            1e300,
            -1e300,
            5e-324,
        ]
    ),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 3.5e38, 1e-45]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", "audio", "visual", "shared", "\n", "\x1b[2J", "../x", "a" * 500]),
    st.text(max_size=6),
)
METRICS = st.one_of(
    NUMBERS, st.lists(NUMBERS, max_size=4).filter(lambda v: len({type(x) for x in v}) <= 1)
)
JSONS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 5),
        st.sampled_from([10**20, 1e400, -1, 2.5]),
        TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
DTYPES = [
    "float32",
    "float64",
    "float16",
    "int64",
    "uint8",
    "bool",
    "complex64",
    ">f4",
    "U3",
    "M8[s]",
]


def _bytes_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", _bytes_of(np.zeros(2, np.float32)))
    return buffer.getvalue()


GOOD = _bytes_of(np.array([1.0, 2.0], np.float32))
TRAPPED = _bytes_of(np.array([Trap()], dtype=object))
BROKEN = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"", GOOD[:-1], GOOD[:9], GOOD + b"\0", _zip(), _zip()[:-5], b"PK\x03\x04", b"\x80\x04]\x94.",
            TRAPPED,
            _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"),
            _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
            _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
            _header("(" * 3000), _header("__import__('os')\n"), _header(""),
        ]
    ),
)  # fmt: skip


def _array(draw: Draw) -> Array:
    """Draw an array of any kind, or bytes that are none."""
    if draw(st.booleans()):
        return Array(
            "float32", (2,), draw(st.sampled_from(["numpy.ndarray", "", "torch"])), draw(BROKEN)
        )
    shape = draw(st.sampled_from([(), (0,), (1,), (2,), (3,), (1, 2), (2, 0)]))
    return Array(np.zeros(shape, draw(st.sampled_from(DTYPES))))


def _spoiled(draw: Draw, array: Array) -> Array:
    """Return an array with some of its numbers replaced."""
    values = array.numpy().copy()
    if np.issubdtype(values.dtype, np.floating) and values.size:
        wrong = draw(
            st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0, -1.0, 1e30])
        )
        values.flat[draw(st.integers(0, values.size - 1))] = wrong
    elif values.size:
        values.flat[0] = draw(st.sampled_from([-1, 2**62, 2**63 - 1, -(2**63)]))
    return Array(values)


def _layout(draw: Draw, text: Any) -> Any:
    """Draw another layout: nonsense, or the one that was with one entry changed."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return json.dumps(draw(JSONS))
    if kind == 1:
        return draw(
            st.one_of(
                TEXTS,
                st.integers(-9, 9),
                st.booleans(),
                st.binary(max_size=4),
                st.lists(TEXTS, max_size=2),
            )
        )
    entries = (
        json.loads(text)
        if isinstance(text, str) and text[:2] == "[["
        else [["ear.w", "float32", [2]]]
    )
    entries = [
        entry if isinstance(entry, list) and len(entry) == 3 else ["ear.w", "float32", [2]]
        for entry in entries
    ]
    place = draw(st.integers(0, len(entries) - 1))
    if kind == 2:
        field_ = draw(st.integers(0, 2))
        choices = (
            TEXTS,
            st.sampled_from(DTYPES),
            st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**63, 0.5, "1"]), max_size=3),
        )
        entries[place][field_] = draw(choices[field_])
        return json.dumps(entries)
    return json.dumps(
        draw(
            st.sampled_from([entries[:place], entries + entries[place:], entries[::-1], "[" * 3000])
        )
    )


def _value(draw: Draw, record: Any, key: str) -> Any:
    if isinstance(record, MetricRecord):
        return draw(METRICS)
    if isinstance(record, ConfigRecord):
        return _layout(draw, record.get(key))
    old = record.get(key)
    try:
        return _spoiled(draw, old) if old is not None and draw(st.booleans()) else _array(draw)
    except Exception:  # an array that an earlier step has broken
        return _array(draw)


def _break(draw: Draw, content: RecordDict) -> None:
    """Break one thing of a reply's content."""
    names = sorted(content)
    if not names:
        return
    name = draw(st.sampled_from(names))
    record: Any = content[name]
    keys = sorted(record)
    what = draw(
        st.sampled_from(
            ["value"] * 8 + ["new", "drop key", "rename key", "twice", "drop", "rename", "retype"]
        )
    )
    if what in ("drop", "rename", "retype"):
        del content[name]
        if what == "rename":
            content[draw(TEXTS)] = record
        elif what == "retype":
            content[name] = draw(st.sampled_from([ArrayRecord, ConfigRecord, MetricRecord]))()
    else:
        _break_key(draw, record, keys, what)


def _break_key(draw: Draw, record: Any, keys: list[str], what: str) -> None:
    """Break one key of a record."""
    if what == "new":
        key = draw(
            st.one_of(
                TEXTS,
                st.sampled_from(
                    [
                        "seconds",
                        "loss-sum.",
                        "loss-sum.x",
                        "class-count.audio",
                        "correct.x",
                        "count.x",
                    ]
                ),
            )
        )
        record[key] = _value(draw, record, key)
    elif keys:
        key = draw(st.sampled_from(keys))
        if what == "value":
            record[key] = _value(draw, record, key)
        elif what == "twice":
            record[draw(TEXTS)] = record[key]
        else:
            value = record.pop(key)
            if what == "rename key":
                record[draw(TEXTS)] = value


def broken_error(draw: Draw) -> Error:
    """Draw an error of Flower's with any code and reason."""
    code = draw(st.sampled_from([-1, 0, 1, 2, 3, 5, 8, 999, 2**31 - 1]))
    reasons = st.sampled_from(
        [
            "",
            " \n ",
            None,
            "a\nb",
            "\x1b[31m",
            "x" * 5000,
            "<class 'ray.exceptions.ActorDiedError'>",
        ]
    )
    return Error(code, draw(st.one_of(reasons, st.text(max_size=8))))


def _copied(content: RecordDict) -> RecordDict:
    return RecordDict({name: record.copy() for name, record in content.items()})


def hostile_replies(draw: Draw, asked: Message, good: RecordDict) -> list[Message]:
    """Draw what a hostile node answers: mostly one reply that is broken in one to three places."""
    how = draw(st.sampled_from(["broken"] * 12 + ["error", "foreign", "twice", "silent"]))
    if how == "silent":
        return []
    if how == "error":
        return [Message(broken_error(draw), reply_to=asked)]
    content = _copied(good)
    if how != "foreign":
        for _ in range(draw(st.integers(1, 3))):
            _break(draw, content)
    sender = wire.query_message(FOREIGN, 1) if how == "foreign" else asked
    sender.metadata.__dict__["_message_id"] = "1"
    reply = Message(content, reply_to=sender)
    return [reply, reply] if how == "twice" else [reply]
