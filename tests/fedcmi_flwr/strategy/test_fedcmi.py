"""The strategy on a toy federation: who gets what, who is averaged with whom, and what faults do."""

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import oracle
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration
from fedcmi_flwr.strategy import FedCMI
from fedcmi_flwr.strategy.groups import group_names
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.types import ClassStats

BOTH = ("audio", "visual")
RAY_DIED = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died'>"
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
    train_round(make_strategy(method=CrossModalInfiltration(lambda_=2.5)), nodes.grid(), server_round=3)
    task = nodes.tasks[0][1]
    assert task.server_round == 3
    assert (task.config["lambda"], task.config["kd-temperature-scaling"], task.config["epochs"]) == (2.5, False, 2)


def test_groups_are_averaged_over_their_owners_by_samples(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node p adds p + 1 to what it got; n = 1, 3, 4; the nodes own both, audio, visual.

    ear + (1 * 1 + 3 * 2) / 4 = 1.75; eye + (1 * 1 + 4 * 3) / 5 = 2.6; head + (1 + 6 + 12) / 8 = 2.375; steps + 2.
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
    for order in (list, lambda replies: replies[::-1], lambda r: [r[i] for i in rng.permutation(len(r))]):
        nodes = federation(owned, [3, 5, 7, 11, 13, 17], stats=stats, values=values)
        strategy = make_strategy()
        found, _ = train_round(strategy, nodes.grid(), order=order)
        ratio = {name: value.tolist() for name, value in strategy.dominance.ratio.items()}
        results.append(([value.tobytes() for value in found.values()], strategy.dominance.dominant, ratio))
    assert results[0] == results[1] == results[2]
    assert results[0][1] is not None


def _without_eye(message: Message, part: int) -> Message:
    task = wire.read_task(message)
    reply = wire.train_reply(message, task.arrays, 1)
    del reply.content["arrays"]["visual/float32"]
    return reply


def _raising(message: Message, part: int) -> Message:
    raise OSError("disk is full")


@pytest.mark.parametrize(
    ("bad", "words"), [(_without_eye, "'visual/float32' is missing"), (_raising, "error 2: .*OSError.*disk is full")]
)
def test_a_bad_reply_is_refused_by_name_and_the_others_are_used(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str], bad: Maker, words: str
) -> None:
    """Of nodes 0 and 1, that add 1 and 2 to the head's 4, the second is refused: 5 remains."""
    nodes, strategy = federation([BOTH, BOTH], [1, 1], replies={1: bad}), make_strategy()
    found, metrics = train_round(strategy, nodes.grid())
    assert found["head.w"].tolist() == [5.0]
    assert (metrics["refused"], metrics["num-examples"]) == (1, 1)
    assert strategy.report.owners["shared"] == [0]
    line = next(line for line in log_lines if "refused" in line)
    assert "node 1002 (partition 1, audio+visual)" in line
    assert line.endswith(strategy.report.refused[0])
    assert re.search(words, line)
    assert set(strategy.report.bytes_up) == {0, 1}


def test_no_valid_reply_fails_the_round_and_says_why(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH, BOTH], [1, 1], replies={0: _without_eye, 1: _raising})
    with pytest.raises(RoundFailedError, match=r"round 4: none of 2 replies.*partition 0.*is missing"):
        train_round(make_strategy(), nodes.grid(), server_round=4)


@pytest.mark.parametrize(("code", "reason"), [(0, RAY_DIED), (0, "ray.exceptions.OutOfMemoryError")])
def test_a_poisoned_pool_stops_the_run(
    federation: Maker, make_strategy: Maker, train_round: Maker, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    """In a simulation; where Ray does not run, a node that speaks of it is refused like any other."""

    def die(replies: list[Message]) -> list[Message]:
        return [Message(Error(code=code, reason=reason), reply_to=_asked(replies[0])), *replies[1:]]

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    strategy = make_strategy()
    train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=die)
    assert len(strategy.report.refused) == 1
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(RoundFailedError, match=r"process died.*ray\.exceptions"):
        train_round(make_strategy(), federation([BOTH, BOTH], [1, 1]).grid(), order=die)


def _asked(reply: Message) -> Message:
    """Return a message to the node that sent ``reply``, so that an error can answer it."""
    message = wire.query_message(reply.metadata.src_node_id, 1)
    message.metadata.__dict__["_message_id"] = "1"
    return message


@pytest.mark.parametrize(("code", "reason"), [(0, "unknown"), (2, RAY_DIED), (8, "client crashed")])
def test_other_errors_are_refused_like_any_bad_reply(
    federation: Maker, make_strategy: Maker, train_round: Maker, code: int, reason: str
) -> None:
    def fail(replies: list[Message]) -> list[Message]:
        return [Message(Error(code=code, reason=reason), reply_to=_asked(replies[0])), *replies[1:]]

    strategy = make_strategy()
    found, _ = train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=fail)
    assert found["head.w"].tolist() == [6.0]
    assert [f"error {code}" in line for line in strategy.report.refused] == [True]


def test_missing_doubled_and_foreign_replies_are_noted(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node 0 (adds 1) answers twice, node 1 (adds 2) never; the head is 4 + 1."""
    strategy = make_strategy()
    found, _ = train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=lambda replies: replies[:1] * 2)
    assert found["head.w"].tolist() == [5.0]
    assert strategy.report.refused == [
        "Reply of node 1001 (partition 0, audio+visual) refused: it was not asked in this round, or answered before.",
        "No reply of node 1002 (partition 1, audio+visual). The round's time is over.",
    ]


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
        expected = {"audio": pytest.approx(temperatures["audio"])} if "audio" in nodes.owned[part] else {}
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
        return wire.train_reply(message, wire.read_task(message).arrays, 1)

    strategy = make_strategy(method=METHODS[method])
    _, metrics = train_round(strategy, federation([BOTH, BOTH], [1, 1], replies={1: no_stats}).grid())
    assert metrics["refused"] == refused


def _evaluate(strategy: FedCMI, nodes: Any) -> Any:  # noqa: ANN401
    grid = nodes.grid()
    record = ArrayRecord({"ear.w": Array(np.ones(1)), "eye.w": Array(np.ones(1)), "head.w": Array(np.ones(1))})
    messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
    return messages, strategy.aggregate_evaluate(1, list(grid.send_and_receive(messages)))


def test_evaluation_adds_counts_then_divides(federation: Maker, make_strategy: Maker) -> None:
    """Fused: (1 + 0 + 3) right of (2 + 1 + 5) is 1/2, not the mean of 1/2, 0 and 3/5; audio only: 2 of 8."""
    counts = {
        0: {
            "fused": Counts(np.array([1, 0]), np.array([2, 0])),
            "audio only": Counts(np.array([0, 0]), np.array([1, 1])),
        },
        1: {"fused": Counts(np.array([0, 0]), np.array([0, 1]))},
        2: {
            "fused": Counts(np.array([1, 2]), np.array([3, 2])),
            "audio only": Counts(np.array([2, 0]), np.array([4, 2])),
        },
    }
    nodes = federation([BOTH, ("visual",), ("audio",)], [1, 1, 1], counts=counts)
    messages, metrics = _evaluate(make_strategy(fraction_evaluate=1.0), nodes)
    assert len(messages) == 3
    assert dict(metrics) == {"accuracy.fused": 0.5, "accuracy.audio only": 0.25}


def test_what_each_node_counted_is_kept_apart(federation: Maker, make_strategy: Maker) -> None:
    counts = {part: {"fused": Counts(np.array([part, 0]), np.array([3, 1]))} for part in range(3)}
    strategy = make_strategy(fraction_evaluate=1.0)
    _evaluate(strategy, federation([BOTH, BOTH, ("audio",)], [1, 1, 1], counts=counts))
    found = strategy.report.evaluated_by
    assert {part: found[part]["fused"].accuracy for part in found} == {0: 0, 1: 0.25, 2: 0.5}
    assert strategy.report.evaluated["fused"].accuracy == 0.25


def test_nodes_evaluate_from_a_round_on(federation: Maker, make_strategy: Maker) -> None:
    """The second process of a run that has two rounds behind it: its first round is the third."""
    counts = {0: {"fused": Counts(np.array([1, 0]), np.array([3, 1]))}}
    strategy = make_strategy(fraction_evaluate=1.0, evaluate_from=3)
    assert _evaluate(strategy, federation([BOTH], [1], counts=counts))[0] == []
    strategy.resume(2, strategy.state(), nodes_remember=True)
    assert len(_evaluate(strategy, federation([BOTH], [1], counts=counts))[0]) == 1


def test_evaluation_refuses_nonsense_and_may_be_left_out(
    federation: Maker, make_strategy: Maker, log_lines: list[str]
) -> None:
    good, bad = (
        {"fused": Counts(np.array([1, 1]), np.array([2, 2]))},
        {"fused": Counts(np.array([3, 1]), np.array([2, 2]))},
    )
    nodes = federation([BOTH, BOTH], [1, 1], counts={0: good, 1: bad})
    _, metrics = _evaluate(make_strategy(fraction_evaluate=1.0), nodes)
    assert dict(metrics) == {"accuracy.fused": 0.5}
    assert any("node 1002 refused" in line and "'fused'" in line for line in log_lines)
    assert _evaluate(make_strategy(fraction_evaluate=1.0), federation([BOTH], [1], counts={0: bad}))[1] is None
    assert _evaluate(make_strategy(fraction_evaluate=0.0), nodes)[0] == []


def test_an_evaluation_that_does_not_come_is_noted(federation: Maker, make_strategy: Maker) -> None:
    counts = {part: {"fused": Counts(np.array([1, 1]), np.array([2, 2]))} for part in range(2)}
    strategy, grid = make_strategy(fraction_evaluate=1.0), federation([BOTH, BOTH], [1, 1], counts=counts).grid()
    record = ArrayRecord({name: Array(np.ones(1)) for name in ("ear.w", "eye.w", "head.w")})
    messages = list(strategy.configure_evaluate(1, record, ConfigRecord({}), grid))
    replies = [reply for reply in grid.send_and_receive(messages) if reply.metadata.src_node_id != 1002]
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics is not None
    assert dict(metrics) == {"accuracy.fused": 0.5}
    assert strategy.report.refused == ["No evaluation of node 1002. The round's time is over."]
    assert strategy.report.to_ask_again == {1002}


def test_groups_need_prefixes_that_tell_names_apart() -> None:
    names = ("ear.w", "ear2.w", "head.w")
    assert group_names(names, {"a": ["ear."], "b": ["ear2."]}) == {
        "a": ("ear.w",),
        "b": ("ear2.w",),
        "shared": ("head.w",),
    }
    with pytest.raises(ValueError, match=r"'ear2.w' belongs to the groups \['a', 'b'\]"):
        group_names(names, {"a": ["ear"], "b": ["ear2."]})
    with pytest.raises(ValueError, match=r"group 'c': no parameter starts with \['eye.'\]"):
        group_names(names, {"a": ["ear"], "c": ["eye."]})


@pytest.mark.parametrize("groups", [{}, {"shared": ["head."]}, {"audio": ["ear."], "shared": ["head."]}])
def test_a_strategy_needs_modalities_and_none_called_shared(groups: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"shared|at least one modality"):
        FedCMI(groups, 2)


def test_a_node_that_left_is_refused_once_with_flowers_reason(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Flower answers for a SuperNode that died with code 5 and node id 1."""

    def leave(replies: list[Message]) -> list[Message]:
        answer = wire.query_message(1, 1)
        answer.metadata.__dict__["_message_id"] = "1"
        return [Message(Error(code=5, reason="Node Unavailable"), reply_to=answer), *replies[1:]]

    strategy = make_strategy()
    train_round(strategy, federation([BOTH, BOTH], [1, 1]).grid(), order=leave)
    expected = "No reply of node 1001 (partition 0, audio+visual). Flower says: error 5: Node Unavailable"
    assert strategy.report.refused == [expected]


def test_a_strategy_goes_on_where_another_one_was(federation: Maker, make_strategy: Maker, train_round: Maker) -> None:
    """Round 3 of a resumed strategy is its first: the same nodes hear of round 3, with the same teacher."""
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
        assert task.dominance.temperature["visual"].tolist() == other.dominance.temperature["visual"].tolist()
    assert resumed.report.plan.server_round == 3
    assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in expected.items()}


@pytest.mark.parametrize(("method", "left"), [("scaffold", False), ("fedproto", True)])
def test_state_that_belongs_to_forgotten_memory_is_dropped(make_strategy: Maker, method: str, left: bool) -> None:
    state = ServerState(method={"w": np.ones(2)})
    for nodes_remember in (True, False):
        strategy = make_strategy(method=METHODS[method])
        strategy.resume(4, state, nodes_remember)
        assert ("w" in strategy.method_state) == (nodes_remember or left)
