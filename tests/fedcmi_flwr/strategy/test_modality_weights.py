"""n_{k,m}: a modality's group is averaged by the samples that have the modality, the shared group
by all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from federated import federate
from flwr.app import Message
from messages import everything
from noiseless import quiet

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.types import ClassStats

BOTH = ("audio", "visual")
Maker = Callable[..., Any]
FEDAVG = METHODS["fedavg"]


def has(num_examples: int, **of: int) -> Callable[[Message, int], Message]:
    """Return a node that adds its partition id + 1 to every array and says how many samples have
    what.
    """

    def reply(message: Message, part: int) -> Message:
        arrays = {
            n: v + np.asarray(part + 1, v.dtype) for n, v in wire.read_task(message).arrays.items()
        }
        return wire.train_reply(
            message, arrays, num_examples, modality_examples=of, applied=everything(message)
        )

    return reply


def test_weights_by_hand(federation: Maker, make_strategy: Maker, train_round: Maker) -> None:
    """Node 0: 10 samples, all with both; node 1: 10, of which 2 have audio.

    Node 2: 4, of which 1 has visual.

    Node p adds p + 1. Ear: (10 * 1 + 2 * 2 + 4 * 3) / 16 = 1.625; eye: (10 + 10 * 2 + 1 * 3) /
    21 = 33 / 21; head: (10 + 20 + 12) / 24 = 1.75. Steps, a counter: 5 + 3.
    """
    replies = {0: has(10), 1: has(10, audio=2, visual=10), 2: has(4, visual=1)}
    strategy = make_strategy(method=FEDAVG)
    found, metrics = train_round(strategy, federation([BOTH] * 3, [0] * 3, replies=replies).grid())
    assert found["ear.w"].tolist() == pytest.approx([2.625, 3.625])
    assert found["eye.w"].tolist() == pytest.approx([3 + 33 / 21])
    assert found["head.w"].tolist() == pytest.approx([5.75])
    assert found["ear.steps"].tolist() == 8
    assert metrics["num-examples"] == 24


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_who_has_no_sample_of_a_modality_did_not_train_it(
    federation: Maker, make_strategy: Maker, train_round: Maker, aggregation: str
) -> None:
    """Nodes 0 to 2 add 1, 2 and 3 to the ear, node 3 has none; mean and median are 2.

    Nobody has visual.
    """
    replies = {part: has(5, visual=0) for part in range(3)} | {3: has(5, audio=0, visual=0)}
    strategy = make_strategy(method=FEDAVG, aggregation=RobustAggregation(aggregation))
    found, _ = train_round(strategy, federation([BOTH] * 4, [0] * 4, replies=replies).grid())
    assert strategy.report.owners == {"audio": [0, 1, 2], "visual": [], "shared": [0, 1, 2, 3]}
    assert found["ear.w"].tolist() == pytest.approx([3.0, 4.0])
    assert found["eye.w"].tolist() == [3.0]
    assert found["head.w"].tolist() == pytest.approx([6.5])


def test_a_capped_weight_takes_the_modalities_along(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Of 10, 10 and 1000 samples at most 20 count.

    Of the last 1000, 251 have audio: 251 * 20 / 1000, rounded up, is 6.

    Ear: (10 * 1 + 10 * 2 + 6 * 3) / 26; eye: (10 + 20 + 20 * 3) / 40.
    """
    strategy = make_strategy(method=FEDAVG, guards=Guards(max_example_ratio=2.0))
    replies = {0: has(10), 1: has(10), 2: has(1000, audio=251)}
    found, _ = train_round(strategy, federation([BOTH] * 3, [0] * 3, replies=replies).grid())
    assert found["ear.w"].tolist() == pytest.approx([1 + 48 / 26, 2 + 48 / 26])
    assert found["eye.w"].tolist() == pytest.approx([3 + 90 / 40])


def test_a_modality_that_few_have_is_bounded_by_those_who_have_it(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Nobody has more samples than the others, but node 3 says that all of its 100 have audio.

    Of 2, 2, 2 and 100 the median is 2, so 2 count. Ear: (1 + 2 + 3 + 4) / 4; eye: the same; of
    node 3's audio statistics, [50, 50], [1, 1] are left, with the same mean probability.
    """

    def lies(message: Message, part: int) -> Message:
        arrays = {
            n: v + np.asarray(part + 1, v.dtype) for n, v in wire.read_task(message).arrays.items()
        }
        count = dict.fromkeys(BOTH, np.array([50, 50]))
        stats = ClassStats(dict.fromkeys(BOTH, np.array([25.0, 5.0])), count)
        return wire.train_reply(message, arrays, 100, stats, applied=everything(message))

    def honest(message: Message, part: int) -> Message:
        arrays = {
            n: v + np.asarray(part + 1, v.dtype) for n, v in wire.read_task(message).arrays.items()
        }
        count = {"audio": np.array([1, 1]), "visual": np.array([50, 50])}
        stats = ClassStats({"audio": np.array([0.5, 0.1]), "visual": np.array([25.0, 5.0])}, count)
        return wire.train_reply(
            message, arrays, 100, stats, modality_examples={"audio": 2}, applied=everything(message)
        )

    strategy = make_strategy(method=CrossModalInfiltration(), guards=Guards(max_example_ratio=1.0))
    replies = {**dict.fromkeys(range(3), honest), 3: lies}
    found, _ = train_round(strategy, federation([BOTH] * 4, [100] * 4, replies=replies).grid())
    assert found["ear.w"].tolist() == pytest.approx([1 + 2.5, 2 + 2.5])
    assert found["eye.w"].tolist() == pytest.approx([3 + 2.5])
    assert strategy.report.stats.count["audio"].tolist() == [4, 4]
    assert strategy.report.stats.probability_sum["audio"].tolist() == pytest.approx([2.0, 0.4])
    assert strategy.report.stats.count["visual"].tolist() == [200, 200]
    (line,) = strategy.report.bounded
    assert (
        "partition 3, audio+visual): num-examples = 100 with audio count as 2 (max-example-ratio)"
        in line
    )


@pytest.mark.parametrize("count", [-1, 6, 2.0, 10**13])
def test_a_number_that_cannot_be_is_refused(
    federation: Maker, make_strategy: Maker, train_round: Maker, count: float
) -> None:
    def lies(message: Message, part: int) -> Message:
        reply = has(5)(message, part)
        reply.content["metrics"]["num-examples.audio"] = count
        return reply

    strategy = make_strategy(method=FEDAVG)
    train_round(strategy, federation([BOTH] * 2, [0] * 2, replies={0: has(5), 1: lies}).grid())
    (line,) = strategy.report.refused
    assert f"num-examples.audio = {count!r}, need an integer from 0 to num-examples = 5" in line


@pytest.mark.parametrize("name", ["visual", "shared", "nose"])
def test_a_modality_that_the_node_does_not_own_is_refused(
    federation: Maker, make_strategy: Maker, train_round: Maker, name: str
) -> None:
    strategy = make_strategy(method=FEDAVG)
    nodes = federation([BOTH, ("audio",)], [0, 0], replies={0: has(5), 1: has(5, **{name: 1})})
    train_round(strategy, nodes.grid())
    (line,) = strategy.report.refused
    assert f"num-examples.{name}, but the node owns ['audio']" in line


def test_statistics_of_more_samples_than_have_the_modality_are_refused(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    def reply(message: Message, part: int) -> Message:
        stats = ClassStats(dict.fromkeys(BOTH, np.zeros(2)), dict.fromkeys(BOTH, np.array([2, 2])))
        arrays = wire.read_task(message).arrays
        of = {"audio": 4 - part}
        return wire.train_reply(
            message, arrays, 5, stats, modality_examples=of, applied=everything(message)
        )

    strategy = make_strategy(method=CrossModalInfiltration())
    train_round(strategy, federation([BOTH] * 2, [0] * 2, replies={0: reply, 1: reply}).grid())
    (line,) = strategy.report.refused
    assert "class statistics of 'audio' are of 4 samples, but num-examples.audio = 3" in line


def test_private_runs_do_not_use_them(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """What is released is the same whatever nodes say that their samples have."""
    found = []
    for replies in ({0: has(5), 1: has(5)}, {0: has(5, audio=0), 1: has(5, audio=0, visual=1)}):
        strategy = make_strategy(method=FEDAVG, privacy=quiet())
        arrays = {
            "ear.w": np.ones(2, np.float32),
            "eye.w": np.ones(1, np.float32),
            "head.w": np.ones(1, np.float32),
        }
        aggregated, _ = train_round(
            strategy, federation([BOTH] * 2, [0] * 2, replies=replies).grid(), arrays=arrays
        )
        found.append(
            ({name: value.tolist() for name, value in aggregated.items()}, strategy.report.owners)
        )
    assert found[0] == found[1]


def _absent(share: float) -> dict[str, np.ndarray]:
    return {
        name: np.arange(48) % 8 >= 8 * share * place
        for place, name in enumerate(("audio", "visual", "touch"))
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 48 samples; all have audio, three quarters visual, half touch."""
    return oracle.prepare(tmp_path_factory.mktemp("weights") / "toy", _absent(0.25))


@pytest.mark.parametrize("method", ["fedavg", "fedcmi-plus", "late-fusion"])
def test_nodes_say_what_their_samples_have(tmp_path: Path, toy: Path, method: str) -> None:
    """The new branch is the mean of the nodes', weighted by what their samples.csv says.

    The head by all samples.
    """
    found = federate(tmp_path, toy, ["audio+visual+touch"] * 2, method=method, partition="natural")
    found.round(1)
    updates = [found.update(reply, partition) for partition, reply in enumerate(found.replies)]
    has = np.stack(list(_absent(0.25).values()), axis=1)
    places = np.arange(48)
    groups = [places[np.isin(places % 5, owned)] for owned in ((0, 2, 4), (1, 3))]
    for update, rows in zip(updates, groups, strict=True):
        counts = dict(
            zip(("audio", "visual", "touch"), has[rows].sum(axis=0).tolist(), strict=True)
        )
        assert update.num_examples == len(rows)
        assert {name: update.examples_of(name) for name in counts} == counts
        assert set(update.modality_examples) == {
            name for name in counts if counts[name] < len(rows)
        }
    for name, value in found.arrays.items():
        group = name.split(".")[1] if name.startswith("branches.") else "shared"
        if np.issubdtype(value.dtype, np.floating):
            weights = [update.examples_of(group) for update in updates]
            expected = oracle.weighted_mean(
                [update.arrays[name].astype(float) for update in updates], weights
            )
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_random_subsets_of_incomplete_samples(
    tmp_path: Path, toy: Path, method: str
) -> None:
    """Three modalities, some of which the data lack and some of which a node's samples lose.

    Two rounds, all finite.
    """
    found = federate(
        tmp_path, toy, [""] * 4, method=method, ownership="random-subsets", missing_share=0.4
    )
    before = found.arrays
    for server_round in (1, 2):
        found.round(server_round)
        assert found.strategy.report.refused == []
    assert all(np.isfinite(value).all() for value in found.arrays.values())
    moved = [name for name in before if not np.array_equal(before[name], found.arrays[name])]
    assert {name.split(".")[1] for name in moved if name.startswith("branches.")} == {
        "audio",
        "visual",
        "touch",
    }
