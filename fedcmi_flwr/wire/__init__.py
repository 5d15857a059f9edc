"""What travels: encode, decode, check."""

from fedcmi_flwr.wire.messages import (
    EXAMPLES_OF,
    LARGEST_PARTITION_ID,
    NodeInfo,
    NodeUpdate,
    Task,
    content_bytes,
    evaluate_reply,
    query_message,
    query_reply,
    read_evaluate_reply,
    read_query_reply,
    read_task,
    read_train_reply,
    task_message,
    train_reply,
)
from fedcmi_flwr.wire.packing import WireError, pack, to_arrays, to_state_dict, unpack

__all__ = [
    "EXAMPLES_OF",
    "LARGEST_PARTITION_ID",
    "NodeInfo",
    "NodeUpdate",
    "Task",
    "WireError",
    "content_bytes",
    "evaluate_reply",
    "pack",
    "query_message",
    "query_reply",
    "read_evaluate_reply",
    "read_query_reply",
    "read_task",
    "read_train_reply",
    "task_message",
    "to_arrays",
    "to_state_dict",
    "train_reply",
    "unpack",
]
