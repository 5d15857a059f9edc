"""Thousands of malformed answers to queries.

Each node that gave one cannot be used, and it is said why.
"""

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from fuzzing import HONEST, LINES, NODES, Connected, fuzzed, strategy_of
from hypothesis import given
from hypothesis import strategies as st
from malformed import FOREIGN, NUMBERS, TEXTS, Draw, broken_error

from fedcmi_flwr import wire

pytestmark = pytest.mark.usefixtures("quiet_log")

QUERY_VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    NUMBERS,
    st.binary(max_size=3),
    st.lists(TEXTS, max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
)


def _query_content(draw: Draw, info: wire.NodeInfo) -> RecordDict:
    """Draw an answer to a query: a good one with a thing or two broken."""
    node = ConfigRecord({"modalities": list(info.modalities), "partition-id": info.partition_id})
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(["modalities", "partition-id", "x"]))
        how = draw(st.sampled_from(["value", "value", "drop", "taken"]))
        if how == "value":
            node[key] = draw(QUERY_VALUES)
        elif how == "drop":
            node.pop(key, None)
        else:
            node["partition-id"] = 0
    name = draw(st.sampled_from(["node"] * 8 + ["", "nodes"]))
    record = draw(st.sampled_from([node] * 8 + [MetricRecord({}), ArrayRecord({})]))
    return RecordDict({name: record})


def test_query_replies() -> None:
    grid, total = Connected(), 0

    @fuzzed(800)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal total
        draw, strategy, answers = data.draw, strategy_of("fedcmi"), []
        strategy.nodes.known = {}
        for node, info in NODES.items():
            asked = wire.query_message(node, 1)
            asked.metadata.__dict__["_message_id"] = "1"
            good = wire.query_reply(asked, info)
            if node in HONEST:
                answers.append(good)
                continue
            how = draw(st.sampled_from(["broken"] * 12 + ["error", "foreign", "twice", "silent"]))
            if how == "error":
                answers.append(Message(broken_error(draw), reply_to=asked))
            elif how == "foreign":
                other = wire.query_message(FOREIGN, 1)
                other.metadata.__dict__["_message_id"] = "1"
                answers.append(wire.query_reply(other, info))
            elif how != "silent":
                broken = Message(_query_content(draw, info), reply_to=asked)
                answers += [broken, broken] if how == "twice" else [broken]
        grid.answers = (
            answers  # a partition that two claim is the first one's: the honest nodes answer first
        )
        LINES.found.clear()
        chosen = strategy.nodes.sample(grid, 1, 1.0, 1, "train")
        known = strategy.nodes.known
        assert {node: known[node] for node in HONEST} == HONEST
        assert set(chosen) == set(known) <= set(NODES)
        assert len({info.partition_id for info in known.values()}) == len(known)
        assert set(strategy.nodes.unusable) == set(NODES) - set(known)
        for node, found in strategy.nodes.unusable.items():
            assert len(found.reason) > 8
            assert found.reason.isprintable()
            assert any(
                f"node {node} cannot be used: {found.reason}" in line for line in LINES.found
            )
        total += len(strategy.nodes.unusable)

    check()
    assert total >= 2 * 800
