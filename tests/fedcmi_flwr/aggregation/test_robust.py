"""Robust aggregation of parameter groups: by hand, against NumPy, against Flower to the bit.

And in federations.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from federated import Federated, federate
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum

from fedcmi_flwr.aggregation.robust import RobustAggregation, krum_index, trimmed_mean
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.wire.packing import pack, unpack

GROUPS = {"audio": ("ear.w", "ear.steps"), "shared": ("head.w",)}
CURRENT = {
    "ear.w": np.zeros(2, np.float32),
    "ear.steps": np.array(0),
    "head.w": np.zeros(1, np.float32),
}
Maker = Callable[..., Any]
ROBUST = {"median": {}, "trimmed-mean": {"trim-share": 0.2}, "krum": {"malicious-nodes": 1}}


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    """Let records be made outside of Flower's processes."""
    LocalGrid(ClientApp(), [], {})


def _updates(ears: list[list[float]], heads: list[float]) -> list[dict[str, np.ndarray]]:
    """Return updates of nodes that all have a head, the first of them an ear too."""
    found = [{"head.w": np.array([head], np.float32)} for head in heads]
    for place, ear in enumerate(ears):
        found[place] |= {"ear.w": np.array(ear, np.float32), "ear.steps": np.array(place + 3)}
    return found


def _weighted(
    updates: list[dict[str, np.ndarray]],
) -> list[tuple[dict[str, np.ndarray], dict[str, float]]]:
    """Return the updates with weights that would decide everything if they counted."""
    return [(update, dict.fromkeys(update, 10.0**place)) for place, update in enumerate(updates)]


@pytest.mark.parametrize(
    ("rule", "ear", "head"),
    [
        # ears (1, 10), (2, 20), (9, -50); heads 1, 2, 4, 8, 1000
        (RobustAggregation("median"), [2.0, 10.0], 4.0),
        # of three int(0.4 * 3) = 1 goes at each end, of five int(0.4 * 5) = 2
        (RobustAggregation("trimmed-mean", trim_share=0.4), [2.0, 10.0], 4.0),
        # of three nothing goes: means 4 and -20 / 3; of five 1 and 1000 go: 14 / 3
        (RobustAggregation("trimmed-mean", trim_share=0.2), [4.0, -20 / 3], 14 / 3),
        # f = 0: n - f - 2 = 1 nearest ear: (1, 10) and (2, 20) are as near to each other; the first
        # is taken. Heads: the 3 nearest of 1 are 1, 9, 49 away (59), of 2 1, 4, 36 (41), of 4 4, 9,
        # 16 (29), of 8 16, 36, 49
        (RobustAggregation("krum", malicious_nodes=0), [1.0, 10.0], 4.0),
    ],
)
def test_each_rule_by_hand(rule: RobustAggregation, ear: list[float], head: float) -> None:
    updates = _updates([[1, 10], [2, 20], [9, -50]], [1, 2, 4, 8, 1000])
    found = rule.aggregate(CURRENT, _weighted(updates), GROUPS)
    assert found["ear.w"].tolist() == pytest.approx(ear)
    assert found["head.w"].tolist() == pytest.approx([head])
    assert found["ear.steps"].tolist() == 5  # counters: the largest of 3, 4, 5
    assert {name: value.dtype for name, value in found.items()} == {
        n: v.dtype for n, v in CURRENT.items()
    }


def _krum(vectors: np.ndarray, f: int) -> int:
    """Return the place of Krum's choice.

    The smallest sum of squared distances to the n - f - 2 nearest others.
    """
    scores = []
    for i in range(len(vectors)):
        distances = sorted(
            float(((vectors[i] - vectors[j]) ** 2).sum()) for j in range(len(vectors)) if j != i
        )
        scores.append(sum(distances[: len(vectors) - f - 2]))
    return int(np.argmin(scores))


@pytest.mark.parametrize("seed", range(3))
def test_random_groups_agree_with_numpy_in_any_order(seed: int) -> None:
    """Far from zero, where squared norms in single precision would lose the distances."""
    rng = np.random.default_rng(seed)
    current = {
        "ear.w": np.full(3, 1000.0, np.float32),
        "ear.v": np.full((2, 2), -500.0, np.float32),
    }
    updates = [
        {n: (v + rng.normal(size=v.shape)).astype(np.float32) for n, v in current.items()}
        for _ in range(9)
    ]
    flat = np.stack(
        [np.concatenate([u["ear.w"], u["ear.v"].ravel()]).astype(np.float64) for u in updates]
    )
    ordered = np.sort(flat, axis=0)
    expected = {
        RobustAggregation("median"): ordered[4],
        RobustAggregation("trimmed-mean", trim_share=0.25): ordered[2:7].mean(axis=0),
        RobustAggregation("krum", malicious_nodes=2): flat[_krum(flat, 2)],
    }
    for rule, values in expected.items():
        for order in (range(9), rng.permutation(9)):
            found = rule.aggregate(
                current, _weighted([updates[i] for i in order]), {"audio": ("ear.w", "ear.v")}
            )
            assert [*found["ear.w"], *found["ear.v"].ravel()] == pytest.approx(
                values.astype(np.float32), rel=1e-6
            )


@pytest.mark.parametrize("nodes", [3, 6, 11])
@pytest.mark.parametrize("seed", range(3))
def test_the_arithmetic_is_flowers_to_the_bit(seed: int, nodes: int) -> None:
    """Of the trimmed mean and of Krum, with two equal vectors among the others."""
    rows = np.random.default_rng(seed).normal(size=(nodes, 50))
    rows[-1] = rows[0]
    for share in (0.01, 0.2, 0.4):
        assert trimmed_mean(rows, share).tobytes() == trim_mean(rows, share).tobytes()
    contents = [RecordDict({"arrays": ArrayRecord({"w": Array(row)})}) for row in rows]
    for malicious in range(4):
        (chosen,) = select_multikrum(contents, malicious, 1)
        assert contents[krum_index(rows, malicious)] is chosen


def test_the_mean_is_weighted() -> None:
    found = RobustAggregation().aggregate(
        CURRENT, _weighted(_updates([], [1, 12])), {"shared": ("head.w",)}
    )
    assert found["head.w"].tolist() == [11.0]  # (1 * 1 + 10 * 12) / 11


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30])
@pytest.mark.parametrize("name", ROBUST)
def test_one_huge_update_of_five_changes_nothing_much(name: str, value: float) -> None:
    updates = _weighted(_updates([], [1, 2, 3, 4, value]))
    assert (
        1
        <= RobustAggregation(name).aggregate(CURRENT, updates, {"shared": ("head.w",)})["head.w"][0]
        <= 4
    )


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (RobustAggregation("median"), 3),
        (RobustAggregation("trimmed-mean", trim_share=0.2), 5),
        (RobustAggregation("trimmed-mean", trim_share=0.3), 4),
        (RobustAggregation("trimmed-mean", trim_share=1 / 3), 3),
        (RobustAggregation("krum", malicious_nodes=0), 3),
        (RobustAggregation("krum", malicious_nodes=2), 7),
    ],
)
def test_owners_that_a_rule_needs(rule: RobustAggregation, needed: int) -> None:
    assert rule.owners_needed == needed
    if rule.name == "trimmed-mean":
        assert int(rule.trim_share * needed) >= 1 > int(rule.trim_share * (needed - 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mode"}, "aggregation = 'mode'"),
        ({"trim_share": 0.5}, "trim-share = 0.5"),
        ({"trim_share": 0.0}, "trim-share = 0.0"),
        ({"malicious_nodes": -1}, "malicious-nodes = -1"),
    ],
)
def test_rules_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RobustAggregation(**{"name": "krum", **changes})


def test_a_group_with_too_few_owners_keeps_its_value(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    """Three own audio, adding 1, 2, 3; two own visual: no median of 2. The samples do not weigh."""
    owned = [("audio",), ("audio", "visual"), ("audio", "visual")]
    strategy = make_strategy(aggregation=RobustAggregation("median"))
    found, _ = train_round(strategy, federation(owned, [1, 1, 90]).grid())
    assert (found["ear.w"].tolist(), found["eye.w"].tolist(), found["head.w"].tolist()) == (
        [3.0, 4.0],
        [3.0],
        [6.0],
    )
    assert strategy.report.owners == {"audio": [0, 1, 2], "visual": [], "shared": [0, 1, 2]}
    assert any(
        "2 of 3 nodes (aggregation = 'median') trained 'visual'; it keeps" in line
        for line in log_lines
    )


def test_a_round_in_which_no_group_has_enough_owners_fails(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    strategy = make_strategy(aggregation=RobustAggregation("krum"))
    with pytest.raises(
        RoundFailedError, match=r"no modality was trained by 5 nodes \(aggregation = 'krum'\)"
    ):
        train_round(strategy, federation([("audio", "visual")] * 4, [1] * 4).grid())


# ---- federations of real nodes, one of which is hostile

NODES = ("audio+visual",) * 6


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(90, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("robust") / "toy", present, signal=2.0)


def attack(
    federated: Federated, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[..., Any]:
    """Return a tamper.

    Node 0 sends change(what it trained, what it was sent) for every floating-point array.
    """

    def tamper(replies: list[Any]) -> list[Any]:
        content = replies[0].content
        arrays, groups = unpack(content["arrays"], content["layout"])
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating):
                arrays[name] = change(array, federated.arrays[name]).astype(array.dtype)
        content["arrays"], content["layout"] = pack(arrays, groups)
        return replies

    return tamper


def flipped(trained: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Return the update turned round and a thousand times as long."""
    return sent - 1000 * (trained - sent)


def accuracy_under_attack(directory: Path, data: Path, rounds: int = 3, **changes: Any) -> float:
    """Return the accuracy after some rounds, all of them under attack.

    Weights must be finite throughout.
    """
    run = federate(
        directory,
        data,
        NODES,
        **{"local-epochs": 3, "normalization": "group", "lr": 0.02, **changes},
    )
    for server_round in range(1, rounds + 1):
        run.round(server_round, attack(run, flipped))
        assert all(np.isfinite(value).all() for value in run.arrays.values())
    return float(run.evaluate(rounds)["accuracy.fused"])


@pytest.mark.parametrize("method", ["fedavg", "fedcmi", "scaffold"])
def test_an_honest_majority_keeps_its_accuracy(tmp_path: Path, toy: Path, method: str) -> None:
    """One of six nodes turns its update round, a thousandfold.

    The mean is at chance (1/3), the rules are not.

    After one such round of the mean, training from it diverges on every node.
    """
    # By default such an update is refused before anything averages it
    unguarded = {"max-norm-ratio": 0.0}
    ruined = accuracy_under_attack(tmp_path / "mean", toy, rounds=1, method=method, **unguarded)
    robust = {
        name: accuracy_under_attack(
            tmp_path / name, toy, method=method, aggregation=name, **unguarded, **keys
        )
        for name, keys in ROBUST.items()
    }
    assert ruined < 0.4
    assert min(robust.values()) > 0.6, (ruined, robust)
