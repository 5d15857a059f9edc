"""The strategy on a toy federation.

Who gets what, who is averaged with whom, who teaches, and how it goes on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from flwr.app import Message
from messages import everything

from fedcmi_flwr import wire
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration
from fedcmi_flwr.strategy import ModalityStrategy
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.types import ClassStats

BOTH = ("audio", "visual")
Maker = Callable[..., Any]


def test_a_node_receives_its_groups_and_the_shared_one(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH, ("audio",), ("visual",)], [1, 1, 1])
    train_round(make_strategy(), nodes.grid())
    received = {part: (set(task.groups), set(task.arrays)) for part, task in nodes.tasks}
    assert received == {
        0: ({"audio", "visual", "shared"}, {"ear.w", "ear.steps", "eye.w", "head.w"}),
        1: ({"audio", "shared"}, {"ear.w", "ear.steps", "head.w"}),
        2: ({"visual", "shared"}, {"eye.w", "head.w"}),
    }
    assert all(task.modalities == BOTH for _, task in nodes.tasks)


def test_hyperparameters_and_the_users_configuration_travel(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH], [1])
    train_round(
        make_strategy(method=CrossModalInfiltration(lambda_=2.5)), nodes.grid(), server_round=3
    )
    task = nodes.tasks[0][1]
    assert task.server_round == 3
    assert (
        task.config["lambda"],
        task.config["kd-temperature-scaling"],
        task.config["epochs"],
    ) == (2.5, False, 2)


def test_groups_are_averaged_over_their_owners_by_samples(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node p adds p + 1 to what it got; n = 1, 3, 4; the nodes own both, audio, visual.

    ear + (1 * 1 + 3 * 2) / 4 = 1.75; eye + (1 * 1 + 4 * 3) / 5 = 2.6; head + (1 + 6 + 12) / 8 =
    2.375; steps + 2.
    """
    nodes, strategy = federation([BOTH, ("audio",), ("visual",)], [1, 3, 4]), make_strategy()
    found, metrics = train_round(strategy, nodes.grid())
    assert found["ear.w"].tolist() == pytest.approx([2.75, 3.75])
    assert found["eye.w"].tolist() == pytest.approx([5.6])
    assert found["head.w"].tolist() == pytest.approx([6.375])
    assert found["ear.steps"].tolist() == 7
    assert {name: value.dtype for name, value in found.items()} == {
        "ear.w": np.float32, "ear.steps": np.int64, "eye.w": np.float32, "head.w": np.float32,
    }  # fmt: skip
    assert strategy.report.owners == {"audio": [0, 1], "visual": [0, 2], "shared": [0, 1, 2]}
    assert metrics["num-examples"] == strategy.report.num_examples == 8
    assert strategy.report.examples == {0: 1, 1: 3, 2: 4}
    assert strategy.report.train_seconds == {0: 0.5, 1: 1.5, 2: 2.5}
    assert metrics["loss.fused"] == pytest.approx((10 + 20 + 30) / 8)
    assert metrics["refused"] == 0


def test_a_group_that_nobody_trained_keeps_its_value(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    nodes, strategy = federation([("audio",), ("audio",)], [1, 1]), make_strategy()
    found, _ = train_round(strategy, nodes.grid())
    assert found["eye.w"].tolist() == [3.0]
    assert strategy.report.owners["visual"] == []
    assert any("nobody trained 'visual'" in line for line in log_lines)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_replies_does_not_matter_to_a_bit(
    federation: Maker, make_strategy: Maker, train_round: Maker, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    owned = [BOTH, ("audio",), ("visual",), BOTH, BOTH, ("audio",)]
    values = dict(enumerate(rng.normal(size=6) * 10.0 ** rng.integers(-6, 6, size=6)))
    total = {name: rng.uniform(size=2) for name in BOTH}
    stats = {part: ClassStats({m: total[m] * part for m in names}, {m: np.full(2, part) for m in names})
             for part, names in enumerate(owned)}  # fmt: skip
    results = []
    for order in (
        list,
        lambda replies: replies[::-1],
        lambda r: [r[i] for i in rng.permutation(len(r))],
    ):
        nodes = federation(owned, [3, 5, 7, 11, 13, 17], stats=stats, values=values)
        strategy = make_strategy()
        found, _ = train_round(strategy, nodes.grid(), order=order)
        ratio = {name: value.tolist() for name, value in strategy.dominance.ratio.items()}
        results.append(
            ([value.tobytes() for value in found.values()], strategy.dominance.dominant, ratio)
        )
    assert results[0] == results[1] == results[2]
    assert results[0][1] is not None


STATS = {
    0: ClassStats(
        {"audio": np.array([1.0, 0.3]), "visual": np.array([0.9, 2.0])}, dict.fromkeys(BOTH, np.array([2, 4]))
    ),
    1: ClassStats({"audio": np.array([0.2, 0.5])}, {"audio": np.array([1, 1])}),
    2: ClassStats({"visual": np.array([3.0, 0.0])}, {"visual": np.array([5, 0])}),
}  # fmt: skip
SUMS = {"audio": np.array([1.2, 0.8]), "visual": np.array([3.9, 2.0])}
COUNTS = {"audio": np.array([3, 5]), "visual": np.array([7, 4])}


def test_dominance_comes_from_sums_over_nodes_and_goes_out_with_the_next_round(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH, ("audio",), ("visual",)], [6, 2, 5], stats=STATS)
    strategy, grid = make_strategy(), nodes.grid()
    d, ratio, temperatures = oracle.decide(SUMS, COUNTS, kappa=2.0)
    assert d == "visual"
    for server_round in (1, 2):
        train_round(strategy, grid, server_round)
        assert strategy.report.measured.dominant == d
        assert strategy.report.measured.ratio["audio"].tolist() == pytest.approx(ratio["audio"])
    first, second = nodes.tasks[:3], nodes.tasks[3:]
    assert [task.dominance.dominant for _, task in first] == [None] * 3
    assert [task.dominance.temperature for _, task in first] == [{}] * 3
    assert [task.dominance.dominant for _, task in second] == [d] * 3
    assert strategy.report.plan.used.dominant == d
    for part, task in second:
        sent = {name: values.tolist() for name, values in task.dominance.temperature.items()}
        expected = (
            {"audio": pytest.approx(temperatures["audio"])} if "audio" in nodes.owned[part] else {}
        )
        assert sent == expected
    assert min(temperatures["audio"]) < 1


@pytest.mark.parametrize("dominance", ["client", "batch"])
def test_the_server_sends_no_decision_where_nodes_decide(
    federation: Maker, make_strategy: Maker, train_round: Maker, dominance: str
) -> None:
    nodes = federation([BOTH, BOTH], [1, 1])
    strategy, grid = make_strategy(method=CrossModalInfiltration(dominance=dominance)), nodes.grid()
    for server_round in (1, 2):
        train_round(strategy, grid, server_round)
    assert [task.dominance.dominant for _, task in nodes.tasks] == [None] * 4
    assert strategy.report.measured.dominant == "audio"


@pytest.mark.parametrize(("method", "refused"), [("fedavg", 0), ("fedavg-heads", 0), ("fedcmi", 1)])
def test_statistics_are_asked_only_of_methods_that_measure(
    federation: Maker, make_strategy: Maker, train_round: Maker, method: str, refused: int
) -> None:
    def no_stats(message: Message, part: int) -> Message:
        return wire.train_reply(
            message, wire.read_task(message).arrays, 1, applied=everything(message)
        )

    strategy = make_strategy(method=METHODS[method])
    _, metrics = train_round(
        strategy, federation([BOTH, BOTH], [1, 1], replies={1: no_stats}).grid()
    )
    assert metrics["refused"] == refused


@pytest.mark.parametrize(
    "groups", [{}, {"shared": ["head."]}, {"audio": ["ear."], "shared": ["head."]}]
)
def test_a_strategy_needs_modalities_and_none_called_shared(groups: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"shared|at least one modality"):
        ModalityStrategy(groups, 2)


def test_a_strategy_goes_on_where_another_one_was(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Round 3 of a resumed strategy is its first.

    The same nodes hear of round 3, with the same teacher.
    """
    sums = {"audio": np.array([0.9, 0.4]), "visual": np.array([0.3, 0.3])}
    stats = ClassStats(sums, {name: np.ones(2, np.int64) for name in BOTH})
    settings = {"method": METHODS["fedcmi"], "fraction_train": 0.5, "seed": 5}
    nodes = federation([BOTH] * 4, [2] * 4, stats=dict.fromkeys(range(4), stats))
    grid, whole, resumed = nodes.grid(), make_strategy(**settings), make_strategy(**settings)
    for server_round in (1, 2):
        arrays, _ = train_round(whole, grid, server_round)
    state = whole.state()
    assert state.dominance.dominant == "audio"
    nodes.tasks.clear()
    expected, _ = train_round(whole, grid, 3, arrays)
    first, nodes.tasks = list(nodes.tasks), []
    resumed.resume(2, state, nodes_remember=True)
    found, _ = train_round(resumed, grid, 1, arrays)
    assert [part for part, _ in nodes.tasks] == [part for part, _ in first]
    for (_, task), (_, other) in zip(nodes.tasks, first, strict=True):
        assert task.server_round == other.server_round == 3
        assert task.dominance.dominant == other.dominance.dominant == "audio"
        assert (
            task.dominance.temperature["visual"].tolist()
            == other.dominance.temperature["visual"].tolist()
        )
    assert resumed.report.plan.server_round == 3
    assert {name: value.tolist() for name, value in found.items()} == {
        n: v.tolist() for n, v in expected.items()
    }


@pytest.mark.parametrize(("method", "left"), [("scaffold", False), ("fedproto", True)])
def test_state_that_belongs_to_forgotten_memory_is_dropped(
    make_strategy: Maker, method: str, left: bool
) -> None:
    state = ServerState(method={"w": np.ones(2)})
    for nodes_remember in (True, False):
        strategy = make_strategy(method=METHODS[method])
        strategy.resume(4, state, nodes_remember)
        assert ("w" in strategy.method_state) == (nodes_remember or left)
