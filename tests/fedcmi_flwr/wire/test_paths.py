"""Who follows one message through the codec opens each file once."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Message
from messages import MODALITIES, SENT, asked
from visits import visited

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.types import ClassStats

ROOM = "fedcmi_flwr/wire"


def _train_reply() -> Message:
    stats = ClassStats({"audio": np.array([0.5, 1.5])}, {"audio": np.array([1, 2])})
    rest = {"loss_sum": {"fused": 1.5}, "loss_count": {"fused": 6}, "from_method": SENT}
    return wire.train_reply(
        asked(), SENT, 3, stats, **rest, modality_examples={"audio": 3, "visual": 1}, seconds=1.0
    )


def _evaluate_reply() -> Message:
    return wire.evaluate_reply(asked(), {"fused": Counts(np.array([1, 0]), np.array([2, 0]))}, 2)


def _query_reply() -> Message:
    return wire.query_reply(wire.query_message(7, 1), wire.NodeInfo(MODALITIES, 0))


@pytest.mark.parametrize(
    ("made", "read", "files"),
    [
        (asked, wire.read_task, ["task.py", "records.py", "packing.py"]),
        (
            _train_reply,
            lambda reply: wire.read_train_reply(reply, SENT, ["audio"], 2),
            ["train.py", "applied.py", "records.py", "packing.py", "metrics.py"],
        ),
        (
            _evaluate_reply,
            lambda reply: wire.read_evaluate_reply(reply, 2),
            ["evaluate.py", "records.py", "metrics.py"],
        ),
        (
            _query_reply,
            lambda reply: wire.read_query_reply(reply, MODALITIES),
            ["query.py", "records.py"],
        ),
    ],
    ids=["task", "train", "evaluate", "query"],
)
def test_a_message_is_read_file_by_file(
    made: Callable[[], Message], read: Callable[[Message], object], files: list[str]
) -> None:
    message = made()
    assert visited(lambda: read(message), ROOM) == [f"{ROOM}/{name}" for name in files]


def test_a_train_reply_is_written_file_by_file() -> None:
    message = asked()
    found = visited(lambda: wire.train_reply(message, SENT, 3, from_method=SENT), ROOM)
    assert found == [
        f"{ROOM}/{name}"
        for name in ("train.py", "applied.py", "tensors.py", "records.py", "packing.py")
    ]
