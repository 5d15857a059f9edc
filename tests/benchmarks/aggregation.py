"""How long a server takes for many replies, and how much memory.

The strategy's round against a plain pass over memory.

Run it as ``python tests/benchmarks/aggregation.py``. Replies are made one by one while they are
asked for, as they arrive over a network; the time that making them takes is measured too, and
taken off.

* the round: each reply is decoded, checked and put away (``reply_store.py``), then all are
  aggregated array by array;
* plain pass: the weighted mean of decoded replies that are in memory already, nothing checked.
"""

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from benchmarks.echo_app import Weights, changed, model_weights, tensor_record  # noqa: E402
from flwr.app import ConfigRecord, Context, Message  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from fedcmi_flwr import wire  # noqa: E402
from fedcmi_flwr.aggregation.robust import RobustAggregation  # noqa: E402
from fedcmi_flwr.methods import METHODS  # noqa: E402
from fedcmi_flwr.simulation.local_grid import LocalGrid  # noqa: E402
from fedcmi_flwr.strategy import ModalityStrategy  # noqa: E402
from fedcmi_flwr.strategy.sampling import Sampling  # noqa: E402

MODALITIES = ("audio", "visual")
IN_MEMORY = 8
"""Replies of the plain pass that are in memory; it goes over them again and again."""


def federation(replies: int) -> LocalGrid:
    """Return a grid of so many nodes."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return wire.query_reply(
            message, wire.NodeInfo(MODALITIES, int(context.node_config["partition-id"]))
        )

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        return wire.train_reply(
            message, changed(wire.read_task(message).arrays, partition), 1 + partition
        )

    return LocalGrid(app, [{"partition-id": i} for i in range(replies)], {})


@contextmanager
def measured(label: str) -> Iterator[dict[str, float]]:
    """Fill in "seconds" and "peak", the MB of memory over those at the start."""
    found: dict[str, float] = {}
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - begin
        done.set()
        watcher.join()
        found["peak"] = (peak - before) / 1e6
        sys.stdout.write(f"{label:<33}{found['seconds']:7.1f} s, peak {found['peak']:6.0f} MB\n")
        sys.stdout.flush()


def our_round(
    rule: str, replies: int, weights: Weights
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a round's aggregation, and the making of its replies alone."""
    groups = {name: [f"{name}."] for name in MODALITIES}
    sampling = Sampling(min_available_nodes=replies)
    strategy = ModalityStrategy(
        groups, 2, METHODS["fedavg"], sampling=sampling, aggregation=RobustAggregation(rule)
    )
    grid = federation(replies)
    messages = list(strategy.configure_train(1, tensor_record(weights), ConfigRecord(), grid))

    def make() -> None:
        for _ in grid.send_and_receive(messages):
            pass

    return lambda: strategy.aggregate_train(1, grid.send_and_receive(messages)), make


def plain_pass(replies: int, weights: Weights) -> Callable[[], object]:
    """Return the weighted mean of replies in memory."""
    ready = [changed(weights, part) for part in range(min(replies, IN_MEMORY))]

    def mean() -> Weights:
        totals = {name: np.zeros(value.shape) for name, value in weights.items()}
        for part, reply in zip(range(replies), itertools.cycle(ready), strict=False):
            for name, total in totals.items():
                total += reply[name].astype(np.float64) * (1 + part)
        return {
            name: (total / sum(range(1, replies + 1))).astype(np.float32)
            for name, total in totals.items()
        }

    return mean


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=90.0, help="of the model")
    parser.add_argument("--tensors", type=int, default=320)
    parser.add_argument(
        "--rules", nargs="+", default=["mean", "median"], help="values of the key aggregation"
    )
    options = parser.parse_args()
    weights = model_weights(options.megabytes, options.tensors)
    sys.stdout.write(
        f"{options.replies} replies of {options.megabytes:g} MB in {options.tensors} tensors, "
        f"{len(os.sched_getaffinity(0))} cores, files in {tempfile.gettempdir()}\n"
    )
    plain = plain_pass(options.replies, weights)
    with measured("plain pass over memory") as passed:
        plain()
    del plain
    for place, rule in enumerate(options.rules):
        aggregate, make = our_round(rule, options.replies, weights)
        if place == 0:
            with measured("making the replies") as making:
                make()
        with measured(f"round with {rule}, making included") as ours:
            aggregate()
        took = ours["seconds"] - making["seconds"]
        sys.stdout.write(
            f"{rule:<33}{took:7.1f} s {took / passed['seconds']:6.1f} x the plain pass\n"
        )


if __name__ == "__main__":
    main()
