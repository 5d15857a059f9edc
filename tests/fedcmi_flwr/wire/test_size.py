"""How large a message is: its arrays, what describes them, and nothing of the transport."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from messages import asked

from fedcmi_flwr import wire
from fedcmi_flwr.methods.dominance import NOBODY


def _message(**records: ArrayRecord | ConfigRecord) -> Message:
    return Message(RecordDict(dict(records)), reply_to=asked())


def test_content_bytes_counts_arrays_and_what_describes_them() -> None:
    """Ten times 1000 more float32 values weigh 40000 bytes more, give or take the digits of the
    shapes.
    """
    sizes = []
    for length in (1000, 11000):
        arrays = {"w": np.zeros(length, np.float32)}
        sizes.append(
            wire.content_bytes(
                wire.task_message(
                    7,
                    "train",
                    wire.pack(arrays, {"g": ("w",)}),
                    {"server-round": 1},
                    ("g",),
                    NOBODY,
                )
            )
        )
    assert sizes[0] > 4000
    assert sizes[1] - sizes[0] == pytest.approx(40000, abs=10)


def test_content_bytes_of_arrays_alone_and_of_an_error() -> None:
    """Texts and numbers, of whatever length, do not count; an error has no content."""
    short, long = (_message(config=ConfigRecord({"a": "x" * length})) for length in (1, 1000))
    assert wire.content_bytes(long) - wire.content_bytes(short) == pytest.approx(999, abs=10)
    assert wire.content_bytes(long, arrays_alone=True) == 0
    packed = _message(arrays=wire.pack({"w": np.zeros(1000)}, {"g": ("w",)})[0])
    assert wire.content_bytes(packed, arrays_alone=True) == wire.content_bytes(packed) > 8000
    assert wire.content_bytes(Message(Error(2, "broken"), reply_to=asked())) == 0
