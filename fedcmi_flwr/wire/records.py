"""The records of a message: looked up by name and kind, a method's own among them, and their size."""

from collections.abc import Mapping
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.packing import WireError, pack, unpack

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def record(message: Message, name: str, kind: type[Record]) -> Record:
    """Return a record of a message; raise WireError where none of that kind has the name."""
    found = message.content.get(name)
    if not isinstance(found, kind):
        raise WireError(f"record {name!r} is {type(found).__name__}, need {kind.__name__}.")
    return found


def method_records(arrays: Mapping[str, AnyArray]) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return the records of a method's own arrays; none where it has no such arrays."""
    if not arrays:
        return {}
    packed, layout = pack(arrays, {"method": tuple(arrays)})
    return {"method-arrays": packed, "method-layout": layout}


def method_arrays(message: Message) -> dict[str, AnyArray]:
    """Reverse :func:`method_records`; raise WireError where only one of the two records is there."""
    if "method-arrays" not in message.content and "method-layout" not in message.content:
        return {}
    packed = record(message, "method-arrays", ArrayRecord)
    layout = record(message, "method-layout", ConfigRecord)
    arrays, _ = unpack(packed, layout)
    return arrays


def content_bytes(message: Message, arrays_alone: bool = False) -> int:
    """Return the size of a message's content in bytes, without transport.

    Flower's own ``count_bytes`` raises on a ConfigRecord that holds an empty string.

    Parameters
    ----------
    message
        Any message; one that holds an error has no content, which is 0 bytes.
    arrays_alone
        Count the data of arrays, not what else is there: texts and numbers, whose length may say
        something of a node.

    Returns
    -------
    Bytes of array data and of the other records, serialised.
    """
    if not message.has_content():
        return 0

    # not content.array_records, which would tie the message up in a cycle of references
    records = list(message.content.values())
    arrays = [each for each in records if isinstance(each, ArrayRecord)]
    size = sum(each.count_bytes() for each in arrays)
    if arrays_alone:
        return size

    others = [each for each in records if not isinstance(each, ArrayRecord)]
    return size + sum(len(each.deflate()) for each in others)
