"""Queries: what a node says of itself reads back, and anything else is refused by name."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from messages import MODALITIES

from fedcmi_flwr import wire
from fedcmi_flwr.wire.packing import WireError


@pytest.mark.parametrize(
    ("sent", "expected"), [(("visual", "audio"), ("audio", "visual")), (("visual",), ("visual",))]
)
def test_a_query_reads_back_in_the_federations_order(
    sent: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    query = wire.query_message(7, 3)
    assert (query.metadata.message_type, query.content["config"]["server-round"]) == ("query", 3)
    reply = wire.query_reply(query, wire.NodeInfo(sent, 4))
    assert wire.read_query_reply(reply, MODALITIES) == wire.NodeInfo(expected, 4)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            {"modalities": ["audio", "smell"], "partition-id": 0},
            r"\['audio', 'smell'\].*\['audio', 'visual'\]",
        ),
        ({"modalities": [], "partition-id": 0}, r"modalities = \[\]"),
        ({"modalities": "audio", "partition-id": 0}, "modalities = 'audio'"),
        ({"modalities": [1], "partition-id": 0}, r"modalities = \[1\]"),
        ({"partition-id": 0}, "modalities = None"),
        ({"modalities": ["audio"]}, "partition-id = None"),
        ({"modalities": ["audio"], "partition-id": -1}, "partition-id = -1"),
        ({"modalities": ["audio"], "partition-id": 1.0}, "partition-id = 1.0"),
        ({"modalities": ["audio"], "partition-id": True}, "partition-id = True"),
    ],
)
def test_a_malformed_query_reply_is_refused(node: dict[str, Any], words: str) -> None:
    reply = Message(RecordDict({"node": ConfigRecord(node)}), reply_to=wire.query_message(7, 1))
    with pytest.raises(WireError, match=words):
        wire.read_query_reply(reply, MODALITIES)


def test_a_query_reply_without_its_record_is_refused() -> None:
    reply = Message(RecordDict(), reply_to=wire.query_message(7, 1))
    with pytest.raises(WireError, match="record 'node' is NoneType"):
        wire.read_query_reply(reply, MODALITIES)
