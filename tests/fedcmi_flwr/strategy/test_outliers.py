"""How far a reply may go beside the others of its round.

By hand, and one damaged float of a toy federation's node.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.privacy import Privacy
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.strategy.outliers import Measure, extent_of

Maker = Callable[..., Any]
BOTH = ("audio", "visual")


def sets(name: str, value: float) -> Callable[[Message, int], Message]:
    """Return a node that adds 1 to every floating-point array, and damages the first number
    of one.
    """

    def reply(message: Message, part: int) -> Message:
        sent = wire.read_task(message).arrays
        arrays = {n: v + 1 if v.dtype.kind == "f" else v for n, v in sent.items()}
        arrays[name] = np.concatenate([[value], arrays[name][1:]]).astype(arrays[name].dtype)
        return wire.train_reply(message, arrays, 1)

    return reply


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, -1e9, 1e4, 1500.0])
@pytest.mark.parametrize(
    ("name", "group"), [("ear.w", "audio"), ("eye.w", "visual"), ("head.w", "shared")]
)
@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7])
def test_a_reply_with_one_damaged_float_is_refused(
    federation: Maker, make_strategy: Maker, nodes: int, name: str, group: str, value: float
) -> None:
    """Node i adds i + 1 everywhere, the last one is damaged.

    Alone it is compared with what it was sent.
    """
    strategy = make_strategy(method=METHODS["fedavg"])
    last = nodes - 1
    toy = federation([BOTH] * nodes, [1] * nodes, replies={last: sets(name, value)})
    refused = one_round(strategy, toy.grid())
    assert len(refused) == 1
    assert (
        f"(partition {last}, audio+visual) refused: the norm of the update of {group!r} is"
        in refused[0]
    )
    assert "max-norm-ratio = 100" in refused[0]


@pytest.mark.parametrize("value", [100.0, -50.0])
def test_what_training_might_do_is_let_through(
    federation: Maker, make_strategy: Maker, value: float
) -> None:
    toy = federation([BOTH] * 3, [1] * 3, replies={2: sets("ear.w", value)})
    assert one_round(make_strategy(method=METHODS["fedavg"]), toy.grid()) == []


@pytest.mark.parametrize(
    "change", [{"guards": Guards(max_norm_ratio=0)}, {"privacy": Privacy(1.0, 1.0, 1.0, 1e-5)}]
)
def test_it_is_off_where_it_is_turned_off_and_with_privacy(
    federation: Maker, make_strategy: Maker, change: dict[str, Any]
) -> None:
    toy = federation([BOTH] * 3, [1] * 3, replies={2: sets("ear.w", 1e30)})
    assert one_round(make_strategy(method=METHODS["fedavg"], **change), toy.grid()) == []


def one_round(strategy: Any, grid: Any) -> list[str]:
    """Run a round, which may fail, and return the refusals."""
    arrays = {"ear.w": np.array([1.0, 2.0], np.float32), "eye.w": np.array([3.0], np.float32),
              "head.w": np.array([4.0], np.float32)}  # fmt: skip
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    messages = strategy.configure_train(1, record, ConfigRecord(), grid)
    with contextlib.suppress(RoundFailedError):
        strategy.aggregate_train(1, list(grid.send_and_receive(messages)))
    return list(strategy.report.refused)


def test_limits_by_hand() -> None:
    """Most nodes change nothing: a hundredth of what was sent, times the ratio.

    Of nothing, the ratio itself.
    """
    idle = {0: 0.0, 1: 0.0, 2: 7.0}
    assert Measure("norm", False, 5.0, idle).limit(100) == pytest.approx(5.0)
    assert Measure("norm", False, 0.0, idle).limit(100) == 100.0
    assert Measure("norm", True, 0.0, {0: 2.0, 1: 2.0, 2: 3.0}).limit(100) == pytest.approx(2e6)
    assert Measure("norm", False, 5.0, {0: 0.0, 1: 7.0}).limit(100) == pytest.approx(500.0)


def test_a_node_whose_samples_are_new_to_a_model_that_others_know_is_let_through() -> None:
    """Measured in honest runs on rosmap, round 14: its update is 480 times the median's, and half
    as long as the weights.
    """
    late = {0: 0.0029, 1: 0.0012, 2: 1.446, 3: 0.0031, 4: 0.0017}
    assert Measure("norm", False, 2.99, late).limit(100) > 1.446
    assert Measure("norm", False, 2.99, late).limit(100) < 3.0


def test_extents_by_hand() -> None:
    """Integers do not count; running statistics for themselves.

    What overflows float32 is measured in float64.
    """
    sent = {
        "w": np.zeros(2, np.float32),
        "bn.running_var": np.ones(1, np.float32),
        "steps": np.array(1),
    }
    arrays = {"w": np.array([3.0, -4.0], np.float32), "bn.running_var": np.array([3.0], np.float32),
              "steps": np.array(9)}  # fmt: skip
    found = extent_of(tuple(sent), arrays, sent)
    assert (found.norm, found.largest, found.statistics) == (5.0, 4.0, 2.0)
    assert extent_of(["w"], {"w": np.array([3e30, 0], np.float32)}, sent).norm == pytest.approx(
        3e30
    )
    half = extent_of(
        ["w"], {"w": np.array([6e4, -6e4], np.float16)}, {"w": np.array([-6e4, 6e4], np.float16)}
    )
    assert half.largest == pytest.approx(1.2e5, rel=1e-2)


def test_one_modality_that_is_ruined_goes_back_alone(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """In round 2 training on audio diverges.

    Node 1 trains eye and head, ear goes back to what round 1 sent.
    """

    def diverges(message: Message, _: int) -> Message:
        if message.content["config"]["server-round"] == 2:
            raise FloatingPointError("training diverged")
        return sets("ear.w", 2.0)(message, 0)

    strategy = make_strategy(method=METHODS["fedavg"])
    toy = federation([("audio",), ("visual",)], [1, 1], replies={0: diverges})
    first, _ = train_round(strategy, toy.grid())
    second, _ = train_round(strategy, toy.grid(), 2, first)
    assert (first["ear.w"].tolist(), second["ear.w"].tolist()) == ([2.0, 3.0], [1.0, 2.0])
    assert second["eye.w"][0] > first["eye.w"][0]
    assert strategy.report.rolled_back == ["audio"]
