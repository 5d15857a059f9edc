"""Thousands of malformed replies to evaluate messages.

Each is refused by name, and does not count.
"""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from fuzzing import ARRAYS, HONEST, LINES, NODES, Connected, fuzzed, strategy_of
from hypothesis import given
from hypothesis import strategies as st
from malformed import hostile_replies

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.calibration import NUM_BINS, Bins
from fedcmi_flwr.evaluation.counts import Counts

pytestmark = pytest.mark.usefixtures("quiet_log")


def test_evaluate_replies() -> None:
    grid, total = Connected(), 0
    record = ArrayRecord({name: Array(value) for name, value in ARRAYS.items()})
    last = (np.arange(NUM_BINS) == NUM_BINS - 1).astype(int)
    counts = {
        "fused": Counts(np.array([1, 2]), np.array([3, 2]), Bins(5 * last, 3 * last, 4.75 * last)),
        "audio only": Counts(
            np.array([0, 1]), np.array([1, 1]), Bins(2 * last, 1 * last, 1.9 * last)
        ),
    }

    @fuzzed(800)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal total
        strategy = strategy_of("fedcmi")
        messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
        replies: list[Message] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = "1"
            good, node = wire.evaluate_reply(message, counts, 5), message.metadata.dst_node_id
            replies += (
                [good] if node in HONEST else hostile_replies(data.draw, message, good.content)
            )
        LINES.found.clear()
        metrics = strategy.aggregate_evaluate(1, data.draw(st.permutations(replies)))
        assert metrics is not None
        refused = strategy.report.refused
        assert [line.partition(": ")[2] for line in LINES.found] == refused
        assert all(line.isprintable() and "node " in line and len(line) > 30 for line in refused)
        missing = [line for line in refused if line.startswith("No evaluation of ")]
        assert len(missing) == len(set(NODES) - {reply.metadata.src_node_id for reply in replies})
        came = len(refused) - len(missing)
        assert came + 2 <= len(replies)
        if came == len(replies) - len(HONEST):  # "fused": 3 of 5 on each honest node
            assert dict(metrics) == {"accuracy.fused": 0.6, "accuracy.audio only": 0.5}
        for found in strategy.report.evaluated.values():
            assert found.count.min() >= 0
            assert 0 <= found.calibration_error <= 1 or not found.bins.count.any()
        by = strategy.report.evaluated_by
        assert set(by) <= {info.partition_id for info in NODES.values()}
        assert all(by[NODES[node].partition_id]["fused"].correct.sum() == 3 for node in HONEST)
        total += len(refused)

    check()
    assert total >= 2 * 800
