"""What travels between server and nodes: one file per message, which encodes, decodes and checks it.

Records of a message by name (S -> N: server to node, N -> S: its reply)::

    query     S -> N  config: server-round                                            query.py
              N -> S  node: modalities, partition-id                                  query.py
    train     S -> N  arrays, layout, config: server-round, modalities, dominant,     task.py
                      temperature.<m>, wire-dtype, hyperparameters
              N -> S  arrays, layout, metrics: num-examples, num-examples.<m>,        train.py
                      seconds, loss-sum.<term>, loss-count.<term>,
                      class-probability-sum.<m>, class-count.<m>
    evaluate  S -> N  as train                                                        task.py
              N -> S  metrics: num-examples, correct.<prediction>,                    evaluate.py
                      count.<prediction>, bin-correct.<prediction>,
                      bin-count.<prediction>, bin-confidence.<prediction>

    train, both ways, where the method has something of its own:                      records.py
                      method-arrays, method-layout

``num-examples.<m>`` says how many of the samples have modality m; without it, all of them have.
``arrays`` holds one flat array per parameter group and dtype ("audio/float32"); ``layout`` holds,
per group, the JSON list of [name, dtype, shape] that the flat arrays are cut by (``packing.py``). A
node narrows its ``arrays`` as the config's ``wire-dtype`` says. ``method-arrays`` are never
narrowed: sums over samples and differences have other ranges.

Whatever does not keep to this raises :class:`WireError`, whose text names the record and the key.
"""

from fedcmi_flwr.wire.evaluate import evaluate_reply, read_evaluate_reply
from fedcmi_flwr.wire.packing import WireError, pack, unpack
from fedcmi_flwr.wire.query import (
    LARGEST_PARTITION_ID,
    NodeInfo,
    query_message,
    query_reply,
    read_query_reply,
)
from fedcmi_flwr.wire.size import content_bytes
from fedcmi_flwr.wire.task import Task, read_task, task_message
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict
from fedcmi_flwr.wire.train import EXAMPLES_OF, NodeUpdate, read_train_reply, train_reply

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
