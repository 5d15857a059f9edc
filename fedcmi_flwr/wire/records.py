"""The records of a message: looked up by name and kind, a method's own among them."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.packing import WireError, pack, unpack

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

PLAIN_LAYOUT = "plain-layout"
"""Key of a task's config: group -> names as JSON, for a node whose arrays are plain."""


def plain_groups(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """Return group -> names of a task whose arrays are plain; None where they are flat."""
    text = config.get(PLAIN_LAYOUT)
    if text is None:
        return None

    try:
        return {str(group): tuple(map(str, names)) for group, names in json.loads(text).items()}
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WireError(f"config: {PLAIN_LAYOUT} is not group -> names: {error}.") from error


def record(message: Message, name: str, kind: type[Record]) -> Record:
    """Return a record of a message; raise WireError where none of that kind has the name."""
    found = message.content.get(name)
    if not isinstance(found, kind):
        there = sorted(map(str, message.content))
        raise WireError(
            f"record {name!r} is {type(found).__name__}, need {kind.__name__}; the message has "
            f"{there}."
        )

    return found


def method_records(arrays: Mapping[str, AnyArray]) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return the records of a method's own arrays; none where it has no such arrays."""
    if not arrays:
        return {}

    packed, layout = pack(arrays, {"method": tuple(arrays)})
    return {"method-arrays": packed, "method-layout": layout}


def method_arrays(message: Message) -> dict[str, AnyArray]:
    """Reverse :func:`method_records`.

    Raise WireError where only one of the two records is there.
    """
    if "method-arrays" not in message.content and "method-layout" not in message.content:
        return {}

    packed = record(message, "method-arrays", ArrayRecord)
    layout = record(message, "method-layout", ConfigRecord)
    arrays, _ = unpack(packed, layout)

    return arrays
