"""The moving average that the strategy keeps.

What a round shows, what the next one trains on, and what goes back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from fedcmi_flwr import wire
from fedcmi_flwr.methods.fedavg import FedAvg
from fedcmi_flwr.strategy.averages import ModelAverage

Maker = Callable[..., Any]


def model(ear: float, eye: float) -> dict[str, np.ndarray]:
    return {"ear.w": np.array([ear], float), "eye.w": np.array([eye], float)}


def shown(record: ArrayRecord) -> list[float]:
    return [float(array.numpy()[0]) for array in record.values()]


def test_training_goes_on_from_what_is_behind_the_average() -> None:
    """(4, 4) is the first; 0.75 * 4 + 0.25 * 8 = 5. A record of somebody else's counts as it is."""
    average = ModelAverage(0.75)
    assert shown(average.add(model(4, 4))) == [4, 4]
    record = average.add(model(8, 4))
    assert shown(record) == [5, 4]
    assert average.training_weights(record)["ear.w"].tolist() == [8]
    own = ArrayRecord({name: Array(value) for name, value in model(7, 7).items()})
    assert average.training_weights(own)["ear.w"].tolist() == [7]


def test_what_goes_back_leaves_the_average_too() -> None:
    """The ear's 1e30 was found unusable.

    It goes back to 4 and its average to what it was before that round.
    """
    average = ModelAverage(0.75)
    average.add(model(4, 4))
    average.add(model(1e30, 8))
    record = average.take_out(model(4, 8), ["ear.w"])
    assert shown(record) == [4, 5]
    assert average.training_weights(record)["ear.w"].tolist() == [4]
    assert shown(average.add(model(8, 9))) == [5, 6]


def test_without_decay_a_round_shows_its_model() -> None:
    average = ModelAverage(0.0)
    average.add(model(4, 4))
    assert shown(average.add(model(1e30, 8))) == [1e30, 8]
    assert shown(average.take_out(model(4, 8), ["ear.w"])) == [4, 8]


def test_in_any_app_a_ruined_group_goes_back_with_its_average(
    federation: Maker, make_strategy: Maker
) -> None:
    """Rounds 1 and 2 add 1.

    Training on round 2's ear diverges in round 3, and goes back to what round 2 sent.
    """

    def train(message: Message, part: int) -> Message:
        if message.content["config"]["server-round"] == 3:
            raise FloatingPointError("training diverged")
        reply: Message = nodes.reply(message, part)
        return reply

    nodes = federation([["audio"]], [1], values={0: 1}, replies={0: train})
    strategy = make_strategy(method=FedAvg(averaging=0.5), failure_budget=3)
    grid = nodes.grid()
    start = {
        "ear.w": np.array([1.0], np.float32),
        "eye.w": np.array([3.0]),
        "head.w": np.array([4.0]),
    }
    arrays = ArrayRecord({name: Array(value) for name, value in start.items()})
    seen, sent = [], []
    for server_round in (1, 2, 3, 4):
        messages = list(strategy.configure_train(server_round, arrays, ConfigRecord(), grid))
        sent.append(float(wire.read_task(messages[0]).arrays["ear.w"][0]))
        found, _ = strategy.aggregate_train(server_round, list(grid.send_and_receive(messages)))
        arrays = arrays if found is None else found
        seen.append(float(arrays["ear.w"].numpy()[0]))
    assert sent == [1.0, 2.0, 3.0, 2.0]  # trained weights, whatever was shown
    assert seen == [2.0, 2.5, 2.0, 2.5]
