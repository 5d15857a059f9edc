"""What travels between server and nodes.

One file per message, which encodes, decodes and checks it.

Records of a message by name (S -> N: server to node, N -> S: its reply)::

    query     S -> N  config: server-round                                            query.py
              N -> S  node: modalities, partition-id, packing                         query.py
    train     S -> N  arrays, layout, config: server-round, modalities, dominant,     task.py
                      temperature.<m>, wire-dtype, method, num-classes,
                      hyperparameters
              N -> S  arrays, layout, metrics: num-examples, num-examples.<m>,        train.py
                      compressed: codes, scales, or indices, values                   compression.py
                      seconds, loss-sum.<term>, loss-count.<term>,
                      class-probability-sum.<m>, class-count.<m>
                      applied: method, terms                                          applied.py
    evaluate  S -> N  as train                                                        task.py
              N -> S  metrics: num-examples, correct.<prediction>,                    evaluate.py
                      count.<prediction>, bin-correct.<prediction>,
                      bin-count.<prediction>, bin-confidence.<prediction>

    train, both ways, where the method has something of its own:                      records.py
                      method-arrays, method-layout

``num-examples.<m>`` says how many of the samples have modality m; without it, all of them have.
``arrays`` holds one flat array per parameter group and dtype ("audio/float32"); ``layout``
holds, per group, the JSON list of [name, dtype, shape] that the flat arrays are cut by
(``packing.py``). Of a node that speaks "plain" there is no ``layout``: ``arrays`` has the names
of the model's state_dict, and the config's ``plain-layout`` says which group each belongs to.
Other numbers in ``metrics`` are the app's own and are averaged over nodes, as Flower's FedAvg
does. A node narrows its ``arrays`` as the config's ``wire-dtype`` says. ``method-arrays`` are
never narrowed: sums over samples and differences have other ranges. Where the config has
``update-compression``, what is in ``compressed`` is not in the reply's ``arrays`` and
``layout``.

Whatever does not keep to this raises :class:`WireError`, whose text names the record and the key.
"""

from fedcmi_flwr.methods.applied import Applied
from fedcmi_flwr.wire.evaluate import (
    evaluate_metrics,
    evaluate_reply,
    evaluate_weight,
    read_evaluate_reply,
)
from fedcmi_flwr.wire.metrics import NUM_EXAMPLES
from fedcmi_flwr.wire.packing import FLAT, PLAIN, WireError, pack, pack_plain, unpack
from fedcmi_flwr.wire.query import (
    LARGEST_PARTITION_ID,
    NodeInfo,
    query_message,
    query_reply,
    read_query_reply,
)
from fedcmi_flwr.wire.size import check_size, content_bytes
from fedcmi_flwr.wire.task import Task, read_task, task_message
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict
from fedcmi_flwr.wire.train import (
    EXAMPLES_OF,
    NodeUpdate,
    read_train_reply,
    reply_names,
    train_reply,
)

__all__ = [
    "EXAMPLES_OF",
    "FLAT",
    "LARGEST_PARTITION_ID",
    "NUM_EXAMPLES",
    "PLAIN",
    "Applied",
    "NodeInfo",
    "NodeUpdate",
    "Task",
    "WireError",
    "check_size",
    "content_bytes",
    "evaluate_metrics",
    "evaluate_reply",
    "evaluate_weight",
    "pack",
    "pack_plain",
    "query_message",
    "query_reply",
    "read_evaluate_reply",
    "read_query_reply",
    "read_task",
    "read_train_reply",
    "reply_names",
    "task_message",
    "to_arrays",
    "to_state_dict",
    "train_reply",
    "unpack",
]
