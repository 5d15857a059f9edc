"""The records of a message: a method's own arrays, and the size of all of them."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from messages import asked

from fedcmi_flwr import wire
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.wire.packing import WireError, pack
from fedcmi_flwr.wire.records import method_arrays, method_records, record


def _message(**records: ArrayRecord | ConfigRecord) -> Message:
    return Message(RecordDict({name.replace("_", "-"): each for name, each in records.items()}), reply_to=asked())


def test_a_record_is_found_by_name_and_kind() -> None:
    found, message = ConfigRecord({"a": 1}), _message(config=ConfigRecord({"a": 1}))
    assert record(message, "config", ConfigRecord) == found
    with pytest.raises(WireError, match="record 'config' is ConfigRecord, need ArrayRecord"):
        record(message, "config", ArrayRecord)
    with pytest.raises(WireError, match="record 'layout' is NoneType, need ConfigRecord"):
        record(message, "layout", ConfigRecord)


def test_a_methods_arrays_read_back_and_none_take_no_record() -> None:
    arrays = {"c": np.array([0.5, 1e300]), "n": np.array([3])}
    found = method_arrays(Message(RecordDict(dict(method_records(arrays))), reply_to=asked()))
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        "c": (np.float64, [0.5, 1e300]), "n": (np.int64, [3]),
    }  # fmt: skip
    assert method_records({}) == {}
    assert method_arrays(_message()) == {}


@pytest.mark.parametrize(("there", "missing"), [("method-arrays", "method-layout"), ("method-layout", "method-arrays")])
def test_one_of_a_methods_two_records_is_not_enough(there: str, missing: str) -> None:
    content = RecordDict({there: method_records({"c": np.zeros(2)})[there]})
    with pytest.raises(WireError, match=f"record '{missing}' is NoneType"):
        method_arrays(Message(content, reply_to=asked()))


def test_content_bytes_counts_arrays_and_what_describes_them() -> None:
    """Ten times 1000 more float32 values weigh 40000 bytes more, give or take the digits of the shapes."""
    sizes = []
    for length in (1000, 11000):
        arrays = {"w": np.zeros(length, np.float32)}
        sizes.append(
            wire.content_bytes(
                wire.task_message(7, "train", pack(arrays, {"g": ("w",)}), {"server-round": 1}, ("g",), NOBODY)
            )
        )
    assert sizes[0] > 4000
    assert sizes[1] - sizes[0] == pytest.approx(40000, abs=10)


def test_content_bytes_of_arrays_alone_and_of_an_error() -> None:
    """Texts and numbers, of whatever length, do not count; an error has no content."""
    short, long = (_message(config=ConfigRecord({"a": "x" * length})) for length in (1, 1000))
    assert wire.content_bytes(long) - wire.content_bytes(short) == pytest.approx(999, abs=10)
    assert wire.content_bytes(long, arrays_alone=True) == 0
    packed = _message(arrays=pack({"w": np.zeros(1000)}, {"g": ("w",)})[0])
    assert wire.content_bytes(packed, arrays_alone=True) == wire.content_bytes(packed) > 8000
    assert wire.content_bytes(Message(Error(2, "broken"), reply_to=asked())) == 0
