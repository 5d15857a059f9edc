"""The Flower app of ``network.py``.

Rounds of two nodes that send back what they got, one added to every number.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedcmi_flwr import wire
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.strategy.arrivals import ArrivalGrid
from fedcmi_flwr.wire.packing import pack

NODES = 2
TIMEOUT = 300.0
Weights = dict[str, NDArray[np.float32]]
client = ClientApp()
server = ServerApp()


def model_weights(megabytes: float, tensors: int, seed: int = 0) -> Weights:
    """Return random weights in so many tensors of two modalities.

    Flower sends equal bytes only once.
    """
    rng = np.random.default_rng(seed)
    size = int(megabytes * 1e6 / 4 / tensors)
    return {
        f"{m}.{i}": rng.random(size, np.float32)
        for m in ("audio", "visual")
        for i in range(tensors // 2)
    }


def changed(arrays: Mapping[str, NDArray[np.generic]], partition: int) -> Weights:
    """Return what a node sends back."""
    return {name: np.asarray(value) + np.float32(1 + partition) for name, value in arrays.items()}


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer in the format of the message."""
    partition = int(context.node_config["partition-id"])
    if "layout" in message.content:
        return wire.train_reply(message, changed(wire.read_task(message).arrays, partition), 1)
    record = message.content["arrays"]
    found = changed({name: array.numpy() for name, array in record.items()}, partition)
    content = RecordDict(
        {"arrays": tensor_record(found), "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content, reply_to=message)


def tensor_record(arrays: Weights) -> ArrayRecord:
    """Return one array per tensor."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def by_tensors(grid: Grid, nodes: Sequence[int], arrays: Weights) -> None:
    """Play a round in which every tensor is an array of its own."""
    record = tensor_record(arrays)
    contents = [
        RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 1})}) for _ in nodes
    ]
    sent = [
        Message(c, dst_node_id=node, message_type="train")
        for c, node in zip(contents, nodes, strict=True)
    ]
    replies = list(grid.send_and_receive(sent, timeout=TIMEOUT))
    found = [
        {name: array.numpy() for name, array in reply.content["arrays"].items()}
        for reply in replies
    ]
    check([set(arrays) == set(decoded) for decoded in found])


def by_groups(dtype: str) -> Callable[[Grid, Sequence[int], Weights], None]:
    """Return a round in the project's wire format."""

    def play(grid: Grid, nodes: Sequence[int], arrays: Weights) -> None:
        groups = {
            m: tuple(name for name in arrays if name.startswith(m)) for m in ("audio", "visual")
        }
        packed, settings = pack(arrays, groups if arrays else {}, dtype), {"server-round": 1}
        sent = [
            wire.task_message(
                node, "train", packed, settings, tuple(groups), NOBODY, wire_dtype=dtype
            )
            for node in nodes
        ]
        replies = grid.send_and_receive(sent, timeout=TIMEOUT)
        check(
            [
                set(wire.read_train_reply(reply, arrays, (), 2).arrays) == set(arrays)
                for reply in replies
            ]
        )

    return play


def check(complete: list[bool]) -> None:
    """Raise RuntimeError unless every node answered in full."""
    if complete != [True] * NODES:
        raise RuntimeError(f"replies that are complete: {complete}, of {NODES} nodes.")


BASELINE = "one array per tensor"
ROUNDS: dict[str, tuple[Callable[[Grid, Sequence[int], Weights], None], bool, bool]] = {
    BASELINE: (by_tensors, False, True),
    "packed": (by_groups("float32"), False, True),
    "packed, as they arrive": (by_groups("float32"), True, True),
    "packed, float16, as they arrive": (by_groups("float16"), True, True),
    "no arrays, as they arrive": (by_groups("float32"), True, False),
}
"""What is played in turns: how, whether replies are taken as they arrive, whether there are
weights in it."""


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Play all rounds in turns, and leave their seconds as JSON."""
    config = context.run_config
    while len(nodes := list(grid.get_node_ids())) < NODES:
        time.sleep(0.2)
    chosen = [name for name in ROUNDS if name in (BASELINE, config["only"]) or not config["only"]]
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(int(config["turns"])):
        for place, name in enumerate(chosen):
            play, arriving, full = ROUNDS[name]
            arrays = model_weights(
                float(config["megabytes"]), int(config["tensors"]), 100 * turn + place
            )
            begin = time.perf_counter()
            play(ArrivalGrid(grid) if arriving else grid, nodes, arrays if full else {})
            seconds[name].append(time.perf_counter() - begin)
    Path(str(config["output"])).write_text(json.dumps(seconds), encoding="utf-8")
