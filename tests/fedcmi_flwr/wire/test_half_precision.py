"""Float32 weights that travel as float16.

Half the bytes, the same dtypes on both machines, never a silent Inf.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.wire.packing import WireError, pack, unpack

Maker = Callable[..., Any]
ARRAYS = {
    "w": np.array([[1.0, 1 / 3], [-65504.0, 1e-9]], np.float32),
    "steps": np.array(70000, np.int64),
    "double": np.array([1e300]),
    "on": np.array([True]),
    "empty": np.zeros((0, 2), np.float32),
}
GROUPS = {"g": tuple(ARRAYS)}
BIG = {
    "ear.w": np.array([1.0, 7e4], np.float32),
    "ear.steps": np.array(5),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([4.0], np.float32),
}


def test_only_float32_is_narrowed_and_comes_back_rounded() -> None:
    packed, layout = pack(ARRAYS, GROUPS, "float16")
    assert {key: array.dtype for key, array in packed.items()} == {
        "g/bool": "bool", "g/float32": "float16", "g/float64": "float64", "g/int64": "int64",
    }  # fmt: skip
    found, _ = unpack(packed, layout)
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        name: (value.dtype, value.shape) for name, value in ARRAYS.items()
    }
    assert found["w"].tolist() == [[1.0, 0.333251953125], [-65504.0, 0.0]]  # 1365 / 4096
    assert found["steps"] == 70000
    assert found["double"] == 1e300


@pytest.mark.parametrize("value", [65520.0, -7e4, 3e38])
def test_what_would_become_infinite_is_named(value: float) -> None:
    arrays = {"ok": np.ones(3, np.float32), "ear.w": np.array([0.0, value], np.float32)}
    with pytest.raises(
        WireError, match=r"'ear\.w' holds .* but float16 ends at 65504; set wire-dtype = 'float32'"
    ):
        pack(arrays, {"g": ("ok", "ear.w")}, "float16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_before_stays_so_and_is_refused_by_the_receiver(value: float) -> None:
    found, _ = unpack(*pack({"w": np.array([value], np.float32)}, {"g": ("w",)}, "float16"))
    assert np.array_equal(found["w"], [value], equal_nan=True)


@pytest.mark.parametrize(
    ("key", "value"), [("g/int64", np.float16), ("g/float64", np.float16), ("g/float64", "f4")]
)
def test_nothing_else_may_be_narrowed(key: str, value: type) -> None:
    packed, layout = pack(ARRAYS, GROUPS)
    packed[key] = Array(np.zeros(packed[key].shape, value))
    with pytest.raises(WireError, match=key):
        unpack(packed, layout)


def test_a_round_in_float16_is_the_round_on_rounded_weights(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node p adds 0.1 (p + 1) in single precision to what it got.

    Rounding is NumPy's, down and up.
    """
    start = {"ear.w": np.array([0.1, 2.3], np.float32), "ear.steps": np.array(5),
             "eye.w": np.array([3.3], np.float32), "head.w": np.array([1e-3], np.float32)}  # fmt: skip
    nodes = federation([("audio", "visual"), ("audio",)], [1, 3], values={0: 0.1, 1: 0.2})
    strategy = make_strategy(wire_dtype="float16")
    found, _ = train_round(strategy, nodes.grid(), arrays=start)

    def travelled(value: np.ndarray) -> np.ndarray:
        return value.astype(np.float16).astype(np.float32)

    for name, weights in {"ear.w": (1, 3), "eye.w": (1, 0), "head.w": (1, 3)}.items():
        sent = travelled(start[name])
        trained = [travelled(sent + np.float32(step)).astype(float) for step in (0.1, 0.2)]
        mean = (weights[0] * trained[0] + weights[1] * trained[1]) / sum(weights)
        assert found[name].tolist() == mean.astype(np.float32).tolist()
        assert found[name].dtype == np.float32
    assert found["ear.steps"] == 5
    assert all("wire-dtype" not in task.config for _, task in nodes.tasks)


def test_the_bytes_of_the_weights_are_halved_both_ways(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    start = {name: np.ones(10000, np.float32) for name in ("ear.w", "eye.w", "head.w")}
    sizes = {}
    for dtype in ("float32", "float16"):
        strategy = make_strategy(wire_dtype=dtype)
        train_round(strategy, federation([("audio", "visual")], [1]).grid(), arrays=start)
        sizes[dtype] = strategy.report.bytes_down[0], strategy.report.bytes_up[0]
    for full, half in zip(*sizes.values(), strict=True):
        # The settings' texts differ by a few bytes
        assert full - half == pytest.approx(60000, abs=20)


def test_evaluations_travel_so_too(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    strategy = make_strategy(wire_dtype="float16", fraction_evaluate=1.0)
    grid = federation([("audio", "visual")], [1]).grid()
    found, _ = train_round(strategy, grid)
    record = ArrayRecord({name: Array(value) for name, value in found.items()})
    (message,) = strategy.configure_evaluate(1, record, ConfigRecord(), grid)
    assert message.content["arrays"]["audio/float32"].dtype == "float16"


def test_a_model_beyond_the_range_ends_the_run_and_names_the_array(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    strategy = make_strategy(wire_dtype="float16")
    with pytest.raises(
        RoundFailedError, match=r"round 1: the global model cannot be sent: array 'ear\.w'"
    ):
        train_round(strategy, federation([("audio",)], [1]).grid(), arrays=BIG)


def test_a_node_beyond_the_range_is_refused_and_the_array_named(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([("audio",), ("audio",)], [1, 1], values={0: 1.0, 1: 1e6})
    strategy = make_strategy(wire_dtype="float16")
    found, _ = train_round(strategy, nodes.grid())
    assert found["ear.w"].tolist() == [2.0, 3.0]
    assert len(strategy.report.refused) == 1
    assert "array 'ear.w' holds a number of size 1e+06" in strategy.report.refused[0]


def test_what_a_method_sends_besides_weights_keeps_its_dtype(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    def reply(message: Message, part: int) -> Message:
        arrays = wire.read_task(message).arrays
        own = {"ear.w": np.array([1e-9, 1e6], np.float32)}
        return wire.train_reply(message, arrays, 1, from_method=own, applied=everything(message))

    strategy = make_strategy(method=METHODS["scaffold"], wire_dtype="float16")
    train_round(strategy, federation([("audio",)], [1], replies={0: reply}).grid())
    assert strategy.method_state["ear.w"].tolist() == np.array([1e-9, 1e6], np.float32).tolist()
