"""The records of a message: found by name and kind, a method's own among them."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from messages import asked

from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.records import method_arrays, method_records, record


def _message(**records: ArrayRecord | ConfigRecord) -> Message:
    return Message(
        RecordDict({name.replace("_", "-"): each for name, each in records.items()}),
        reply_to=asked(),
    )


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


@pytest.mark.parametrize(
    ("there", "missing"), [("method-arrays", "method-layout"), ("method-layout", "method-arrays")]
)
def test_one_of_a_methods_two_records_is_not_enough(there: str, missing: str) -> None:
    content = RecordDict({there: method_records({"c": np.zeros(2)})[there]})
    with pytest.raises(WireError, match=f"record '{missing}' is NoneType"):
        method_arrays(Message(content, reply_to=asked()))
