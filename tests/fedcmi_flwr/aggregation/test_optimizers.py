"""Server optimisers, one per group.

The papers' formulas in NumPy, and Flower's own strategies to the bit.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import oracle
import pytest
from federated import federate
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi

from fedcmi_flwr.aggregation.group_optimizers import GroupOptimizers
from fedcmi_flwr.aggregation.optimizers import Arrays, Moments, ServerOptimizer, UpdateRule
from fedcmi_flwr.simulation.local_grid import LocalGrid

GROUPS = {
    "audio": ("ear.w", "ear.running_mean", "ear.running_var", "ear.num_batches_tracked"),
    "shared": ("head.w",),
}
LR, MOMENTUM, BETA_2, TAU = 0.3, 0.8, 0.99, 1e-3


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    """Let messages be made outside of Flower's processes."""
    LocalGrid(ClientApp(), [], {})


def _optimizers(name: str, lr: float = LR, momentum: float = MOMENTUM) -> GroupOptimizers:
    return GroupOptimizers(ServerOptimizer(name, lr, momentum))


def _expected(
    name: str, start: np.ndarray, averages: Sequence[np.ndarray | None]
) -> list[np.ndarray]:
    """Return the weights after each round.

    None: nobody trained the group, and neither moments nor time go on.
    """
    w, m, v, t, found = start.astype(np.float64), np.zeros(len(start)), np.zeros(len(start)), 0, []
    for average in averages:
        if average is not None:
            t, delta = t + 1, average - w
            if name == "fedavgm":
                m = MOMENTUM * m + delta
                w = w + LR * m
            else:
                m = MOMENTUM * m + (1 - MOMENTUM) * delta
                square = delta**2
                v = (
                    BETA_2 * v + (1 - BETA_2) * square
                    if name == "fedadam"
                    else v - (1 - BETA_2) * square * np.sign(v - square)
                )
                corrected = (
                    np.sqrt(1 - BETA_2 ** (t + 1)) / (1 - MOMENTUM ** (t + 1))
                    if name == "fedadam"
                    else 1.0
                )
                w = w + LR * corrected * m / (np.sqrt(v) + TAU)
        found.append(w)
    return found


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_three_rounds_are_the_papers_and_an_untrained_group_stands_still(name: str) -> None:
    """Nobody trains audio in round 2.

    Its optimiser goes on in round 3 where it stood after round 1.
    """
    rng, optimizer = np.random.default_rng(0), _optimizers(name)
    now = {
        "ear.w": rng.normal(size=3).astype(np.float32),
        "ear.running_mean": np.zeros(3, np.float32),
        "ear.running_var": np.full(3, 0.5, np.float32),
        "ear.num_batches_tracked": np.array(0),
        "head.w": rng.normal(size=2).astype(np.float32),
    }
    ear, head = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    expected = {
        "ear.w": _expected(name, now["ear.w"], [ear[0], None, ear[2]]),
        "head.w": _expected(name, now["head.w"], list(head)),
    }
    for t in range(3):
        trained = {
            group: GROUPS[group] for group in (("audio", "shared") if t != 1 else ("shared",))
        }
        averaged = {**now, "head.w": head[t].astype(np.float32)}
        if t != 1:
            averaged |= {
                "ear.w": ear[t].astype(np.float32),
                "ear.running_mean": np.full(3, 5.0 + t, np.float32),
                "ear.running_var": np.full(3, 1e-4, np.float32),
                "ear.num_batches_tracked": np.array(7 + t),
            }
        found = optimizer.step(now, averaged, trained)
        assert {key: value.dtype for key, value in found.items()} == {
            key: value.dtype for key, value in now.items()
        }
        for weight, steps in expected.items():
            assert found[weight] == pytest.approx(steps[t], abs=1e-5), (weight, t)
        for buffer in GROUPS["audio"][1:]:
            # Plain averages; a step from 0.5 towards 1e-4 might end below 0
            assert found[buffer].tolist() == averaged[buffer].tolist()
        now = found
    assert not np.array_equal(now["ear.w"], averaged["ear.w"])


def test_fedavgm_of_learning_rate_one_without_momentum_is_the_average() -> None:
    before, averaged = (
        {"w": np.array([1.0, 2.0], np.float32)},
        {"w": np.array([3.0, -4.0], np.float32)},
    )
    optimizer = _optimizers("fedavgm", 1.0, 0.0)
    assert np.array_equal(optimizer.step(before, averaged, {"shared": ("w",)})["w"], averaged["w"])


@pytest.mark.parametrize(
    ("name", "lr", "momentum"),
    [
        ("fedadam", -1.0, 0.9),
        ("fedadam", np.inf, 0.9),
        ("fedadam", 1.0, 1.0),
        ("fedavgm", 1.0, -0.1),
    ],
)
def test_bad_settings_are_refused(name: str, lr: float, momentum: float) -> None:
    with pytest.raises(ValueError, match="server-"):
        ServerOptimizer(name, lr, momentum)


class HalfWay(UpdateRule):
    """A server optimiser of somebody else: goes a share of the way to the average."""

    default_lr = 0.5

    def step(
        self, count: int, old: Arrays, averaged: Arrays, moments: Moments
    ) -> tuple[Arrays, Moments]:
        """Return w + lr (average - w)."""
        return {name: old[name] + self.lr * (averaged[name] - old[name]) for name in old}, moments


def test_an_optimiser_from_outside_is_found_by_its_import_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    before, averaged = {"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 0.0])}
    for lr, expected in ((0.0, [2.0, 1.0]), (0.25, [1.5, 1.5])):
        stepped = GroupOptimizers(ServerOptimizer("mine:HalfWay", lr)).step(
            before, averaged, {"shared": ("w",)}
        )
        assert stepped["w"].tolist() == expected
    with pytest.raises(
        ValueError, match=r"server-optimizer = 'fedadm': not one of .*Did you mean 'fedadam'"
    ):
        GroupOptimizers(ServerOptimizer("fedadm"))
    with pytest.raises(
        ValueError, match=r"a server optimiser is a class derived from .*UpdateRule"
    ):
        GroupOptimizers(ServerOptimizer("mine:GroupOptimizers"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(40, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("optimizers") / "toy", present)


def test_a_federation_takes_the_averages_or_steps_towards_them(tmp_path: Path, toy: Path) -> None:
    """With lr 1 and no momentum the bits are those of no optimiser.

    With lr 1/2 weights go half of the way.
    """
    nodes = ("audio+visual", "audio")
    plain = federate(tmp_path / "plain", toy, nodes, method="fedavg")
    whole, half = (
        federate(tmp_path / str(lr), toy, nodes, method="fedavg", server_optimizer="fedavgm", server_lr=lr,
                 server_momentum=0.0) for lr in (1.0, 0.5)
    )  # fmt: skip
    start, average = plain.arrays, plain.round(1)
    taken, stepped = whole.round(1), half.round(1)
    for name, value in average.items():
        assert np.array_equal(taken[name], value), name
        buffer = "running" in name or "tracked" in name
        expected = value if buffer else (start[name] + value) / 2
        assert stepped[name] == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_an_optimizer_goes_on_from_its_state(name: str) -> None:
    """Two groups, of which one stands still in the second step.

    Restored before the third, it ends at the same bits.
    """
    groups = {"audio": ("z", "a", "a.num_batches_tracked"), "shared": ("w",)}
    rng = np.random.default_rng(0)
    now = {key: rng.normal(size=(2, 3)).astype(np.float32) for key in ("z", "a", "w")}
    now["a.num_batches_tracked"] = np.array(4)
    steps = [
        {**now, **{key: rng.normal(size=(2, 3)).astype(np.float32) for key in ("z", "a", "w")}}
        for _ in range(4)
    ]
    whole, first, second = (_optimizers(name, 0.3, 0.9) for _ in range(3))
    for t, averaged in enumerate(steps):
        trained = {group: groups[group] for group in (("shared",) if t == 1 else tuple(groups))}
        if t == 2:
            state = first.state()
            assert (int(state["audio/steps"]), int(state["shared/steps"])) == (1, 2)
            second.restore(state)
        after = whole.step(now, averaged, trained)
        again = (first if t < 2 else second).step(now, averaged, trained)
        assert all(again[key].tobytes() == value.tobytes() for key, value in after.items())
        now = after
    fresh = _optimizers(name, 0.3, 0.9)
    assert not np.array_equal(
        fresh.step(now, steps[0], groups)["w"], whole.step(now, steps[0], groups)["w"]
    )


def test_without_a_step_there_is_no_state() -> None:
    assert _optimizers("fedadam").state() == {}


def test_without_an_optimizer_averages_are_the_new_weights() -> None:
    optimizer, averaged = GroupOptimizers(ServerOptimizer()), {"w": np.array([3.0], np.float32)}
    assert (
        optimizer.step({"w": np.array([1.0], np.float32)}, averaged, {"shared": ("w",)}) == averaged
    )
    assert optimizer.state() == {}


@pytest.mark.parametrize(("name", "lr"), [("fedavgm", 1.0), ("fedadam", 0.01), ("fedyogi", 0.01)])
def test_learning_rate_0_is_the_optimizers_own(name: str, lr: float) -> None:
    before, averaged = {"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, -4.0])}
    found, expected = (
        _optimizers(name, rate).step(before, averaged, {"shared": ("w",)}) for rate in (0.0, lr)
    )
    assert found["w"].tolist() == expected["w"].tolist()


# ---- Flower's strategies as the oracle

Flowers = FedAvgM | FedAdam | FedYogi


def _flowers(name: str, lr: float, momentum: float) -> Flowers:
    if name == "fedavgm":
        return FedAvgM(server_learning_rate=lr, server_momentum=momentum)
    kind = FedAdam if name == "fedadam" else FedYogi
    return kind(eta=lr, beta_1=momentum)


def _flowers_step(
    optimizer: Flowers, step: int, old: dict[str, np.ndarray], averaged: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Let Flower's strategy aggregate one reply, the average.

    It steps from its own record of the old weights.
    """
    records = [
        ArrayRecord({name: Array(value) for name, value in part.items()})
        for part in (old, averaged)
    ]
    optimizer.current_arrays = records[0] if isinstance(optimizer, FedAvgM) else dict(old)
    content = RecordDict(
        {"arrays": records[1], "metrics": MetricRecord({optimizer.weighted_by_key: 1})}
    )
    reply = Message(content, reply_to=Message(RecordDict(), dst_node_id=1, message_type="train"))
    arrays, _ = optimizer.aggregate_train(step, [reply])
    assert arrays is not None
    return {name: array.numpy().astype(old[name].dtype) for name, array in arrays.items()}


def _flowers_moments(optimizer: Flowers) -> dict[str, np.ndarray]:
    """Return the moments under the keys that checkpoints have for them."""
    found = {
        f"momentum_vector/{i}": value
        for i, value in enumerate(getattr(optimizer, "momentum_vector", None) or [])
    }
    for moment in ("m_t", "v_t"):
        found |= {
            f"{moment}/{name}": value
            for name, value in (getattr(optimizer, moment, None) or {}).items()
        }
    return found


@pytest.mark.parametrize(("lr", "momentum"), [(0.3, 0.9), (1.0, 0.0), (0.01, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_weights_and_moments_are_flowers_to_the_bit(name: str, lr: float, momentum: float) -> None:
    """Five steps of arrays of several shapes, sizes of numbers and dtypes, one of them a scalar."""
    rng = np.random.default_rng(0)
    like = {
        "b": ((3, 4), np.float32),
        "a": ((), np.float32),
        "c": ((7,), np.float64),
        "d": ((2, 2), np.float16),
    }

    def draw() -> dict[str, np.ndarray]:
        return {key: np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3), dtype)
                for key, (shape, dtype) in like.items()}  # fmt: skip

    ours, flowers, now = _optimizers(name, lr, momentum), _flowers(name, lr, momentum), draw()
    for step in range(1, 6):
        averaged = draw()
        found, expected = (
            ours.step(now, averaged, {"g": tuple(now)}),
            _flowers_step(flowers, step, now, averaged),
        )
        assert [found[key].tobytes() for key in like] == [expected[key].tobytes() for key in like]
        state = ours.state()
        moments = {
            key.removeprefix("g/"): value.tobytes()
            for key, value in state.items()
            if key != "g/steps"
        }
        assert moments == {
            key: np.asarray(value).tobytes() for key, value in _flowers_moments(flowers).items()
        }
        assert int(state["g/steps"]) == step
        now = found
