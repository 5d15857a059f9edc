"""Replies that wait on the disk.

The same bits as in memory, for every rule, and no more memory for more replies.
"""

import errno
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.strategy import reply_store
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.reply_store import ReplyStore

Maker = Callable[..., Any]
BOTH = ("audio", "visual")
ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "steps": np.array(7, np.int64),
    "on": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.array(0.5, np.float16),
}


@pytest.mark.parametrize("in_memory", [1, 100, 2**28])
def test_arrays_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(reply_store, "BYTES_IN_MEMORY", in_memory)
    with ReplyStore() as store:
        first, nothing, second = store.put(ARRAYS), store.put({}), store.put({"w": np.array([9.0])})
        for _ in range(2):
            assert second["w"].tolist() == [9.0]
            assert list(first) == list(ARRAYS)
            for name, value in ARRAYS.items():
                found = first[name]
                assert (found.dtype, found.shape, found.tobytes()) == (
                    value.dtype,
                    value.shape,
                    value.tobytes(),
                ), name
        assert (len(nothing), "w" in nothing, "w" in first) == (0, False, True)
        with pytest.raises(KeyError, match="missing"):
            first["missing"]


def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplyStore() as store:

        def full(data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(
            store,
            "_file",
            type("Full", (), {"seek": int, "write": full, "close": store._file.close}),
        )
        monkeypatch.setattr(store._file, "write", staticmethod(full))
        with pytest.raises(
            OSError, match=r"cannot be kept in .*No space left on device.*set TMPDIR"
        ):
            store.put(ARRAYS)


RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {"aggregation": RobustAggregation("median")},
    "trimmed-mean": {"aggregation": RobustAggregation("trimmed-mean")},
    "krum": {"aggregation": RobustAggregation("krum")},
    "clipped": {"guards": Guards(max_update_norm=1.0)},
    "refused": {"guards": Guards(max_update_norm=10.0, update_norm_action="refuse")},
    "capped": {"guards": Guards(max_example_ratio=1.0)},
    "scaffold": {
        "method": METHODS["scaffold"],
        "guards": Guards(max_update_norm=1.0, max_example_ratio=1.0),
    },
    "half": {"wire_dtype": "float16"},
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_the_same_bits_from_the_disk_and_in_any_order(
    federation: Maker,
    make_strategy: Maker,
    train_round: Maker,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
) -> None:
    rng = np.random.default_rng(0)
    owned = [BOTH, ("audio",), BOTH, ("visual",), BOTH, BOTH, BOTH]
    values = dict(enumerate(rng.normal(size=7) * 10.0 ** rng.integers(-3, 3, size=7)))

    def scaffold_reply(message: Message, part: int) -> Message:
        task = wire.read_task(message)
        arrays = {
            name: value + np.asarray(values[part]).astype(value.dtype)
            for name, value in task.arrays.items()
        }
        control = {
            name: value * np.float32(values[part]) for name, value in arrays.items() if "w" in name
        }
        return wire.train_reply(
            message, arrays, part + 1, from_method=control, applied=everything(message)
        )

    replies = {part: scaffold_reply for part in range(7)} if rule == "scaffold" else {}
    results = []
    for in_memory in (2**28, 1):
        monkeypatch.setattr(reply_store, "BYTES_IN_MEMORY", in_memory)
        for order in (list, lambda r: r[::-1], lambda r: [r[i] for i in rng.permutation(7)]):
            strategy = make_strategy(**RULES[rule])
            nodes = federation(owned, [3, 5, 7, 11, 13, 17, 19], values=values, replies=replies)
            found, _ = train_round(strategy, nodes.grid(), order=order)
            bits = {
                name: value.tobytes() for name, value in (found | strategy.state().method).items()
            }
            results.append(
                (bits, strategy.report.refused, strategy.report.bounded, strategy.report.owners)
            )
    assert all(result == results[0] for result in results)
    assert results[0][3]["audio"]


@pytest.mark.parametrize("rule", ["mean", "clipped", "scaffold"])
def test_memory_does_not_grow_with_the_number_of_replies(
    make_strategy: Maker, federation: Maker, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """12 replies of 4 MB may take no more at their peak than 3 replies.

    Together they are 48 MB (scaffold: 96).
    """
    monkeypatch.setattr(reply_store, "BYTES_IN_MEMORY", 1)
    start = ArrayRecord(
        {name: Array(np.ones(2**18, np.float32)) for name in ("ear.a", "ear.b", "eye.w", "head.w")}
    )

    def reply(message: Message, part: int) -> Message:
        arrays = {
            name: value + np.float32(1 + part)
            for name, value in wire.read_task(message).arrays.items()
        }
        own = arrays if rule == "scaffold" else None
        return wire.train_reply(message, arrays, 1, from_method=own, applied=everything(message))

    def peak(count: int) -> int:
        strategy = make_strategy(**({"method": METHODS["fedavg"]} | RULES[rule]))
        grid = federation(
            [BOTH] * count, [1] * count, replies=dict.fromkeys(range(count), reply)
        ).grid()
        messages = strategy.configure_train(1, start, ConfigRecord(), grid)

        def arriving() -> Iterator[Message]:
            for message in messages:
                yield reply(message, 1)

        tracemalloc.start()
        try:
            aggregated, _ = strategy.aggregate_train(1, arriving())
            assert aggregated is not None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12) < peak(3) + 2**20
