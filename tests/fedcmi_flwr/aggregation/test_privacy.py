"""Differential privacy: clipping, noise and the account, by hand and in closed form."""

from collections.abc import Callable, Mapping
from typing import Any

import dp_accounting
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from noiseless import quiet
from scipy.stats import kstest, norm

from fedcmi_flwr.aggregation.privacy import Privacy, PrivacyBudgetError, system_noise
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.methods.dominance import decide_dominance
from fedcmi_flwr.types import ClassStats

BOTH = ("audio", "visual")
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([4.0], np.float32),
}
Maker = Callable[..., Any]


def _raising(message: Message, part: int) -> Message:
    raise ValueError("loss 0.123 of 77 samples")


# ---- mechanism


@pytest.mark.parametrize("examples", [[1, 1], [1, 1000]])
def test_updates_are_clipped_by_group_and_averaged_with_equal_weights(
    federation: Maker, make_strategy: Maker, train_round: Maker, examples: list[int]
) -> None:
    """Node 0 owns both and adds 3 to each number, node 1 owns audio and adds 0.5; C = 1.

    ear: node 0's (3, 3) becomes (0.7071, 0.7071), node 1's (0.5, 0.5) has norm 0.7071 and stays:
    mean 0.60355. eye: 3 becomes 1. head: 3 becomes 1, 0.5 stays: mean 0.75.
    """
    nodes = federation([BOTH, ("audio",)], examples, values={0: 3.0, 1: 0.5})
    found, _ = train_round(make_strategy(privacy=quiet()), nodes.grid(), arrays=ARRAYS)
    assert found["ear.w"].tolist() == pytest.approx([1.60355, 2.60355], abs=1e-5)
    assert found["eye.w"].tolist() == pytest.approx([4.0])
    assert found["head.w"].tolist() == pytest.approx([4.75])
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_a_reply_that_is_refused_counts_as_no_change(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    """Node 0's clipped 1 is divided by the two nodes asked."""
    nodes = federation([BOTH, BOTH], [1, 1], values={0: 3.0}, replies={1: _raising})
    found, _ = train_round(make_strategy(privacy=quiet()), nodes.grid(), arrays=ARRAYS)
    assert found["head.w"].tolist() == pytest.approx([4.5])


def test_too_few_owners_leave_a_group_without_noise(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH, ("audio",)], [1, 1])
    strategy = make_strategy(privacy=quiet(noise=np.ones), min_owners_per_modality=2)
    found, _ = train_round(strategy, nodes.grid(), arrays=ARRAYS)
    assert found["eye.w"].tolist() == [3.0]
    assert found["ear.w"].tolist() != [1.0, 2.0]


@pytest.mark.parametrize(("z", "c", "n"), [(2.0, 3.0, 5), (0.5, 1.0, 1)])
def test_the_noise_on_an_average_has_standard_deviation_z_c_over_n(
    z: float, c: float, n: int
) -> None:
    """200,000 coordinates: the estimate's own standard deviation is 0.16 %."""
    before = {"a": np.zeros((400, 500)), "b": np.zeros(7)}
    found = Privacy(z, c, 1.0, 1e-5).average(before, [before] * n, {"g": ("a", "b")}, {"g": n})
    assert found["a"].std() == pytest.approx(z * c / n, rel=0.01)
    assert abs(found["a"].mean()) < 5 * z * c / n / 447
    assert found["b"].all()


def test_the_noise_on_statistics_has_standard_deviation_z_s() -> None:
    """Counts of 1e6 are far from the bounds that noise is moved back to, and below S together."""
    total, count = np.full(20_000, 5e5), np.full(20_000, 10**6)
    parts = [ClassStats({"audio": total, "visual": total}, {"audio": count, "visual": count})] * 2
    found = Privacy(1e-4, 1.0, 1e9, 1e-5).statistics(parts, BOTH, 20_000)
    for name in BOTH:
        assert found.count[name].std() == pytest.approx(1e5, rel=0.03)
        assert found.count[name].mean() == pytest.approx(2e6, rel=0.01)
        assert found.probability_sum[name].std() == pytest.approx(1e5, rel=0.03)


def test_a_nodes_statistics_are_clipped_over_all_its_modalities_together() -> None:
    """One class: (sum, count) = (3, 4) for audio and (0, 12) for visual have norm 13.

    S = 1.3 scales by 0.1.
    """
    one = ClassStats({"audio": np.array([3.0]), "visual": np.array([0.0])},
                     {"audio": np.array([4]), "visual": np.array([12])})  # fmt: skip
    small = ClassStats({"audio": np.array([0.1])}, {"audio": np.array([0.2])})
    found = quiet(statistics_clip_norm=1.3).statistics([one, small], BOTH, 1)
    assert found.probability_sum["audio"].tolist() == pytest.approx([0.4])
    assert found.count["audio"].tolist() == pytest.approx([0.6])
    assert found.count["visual"].tolist() == pytest.approx([1.2])
    assert list(quiet().statistics([one, small], ["visual"], 1).count) == ["visual"]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_noisy_statistics_stay_in_range_and_decide_without_nan(scale: float) -> None:
    stats = (
        {name: np.array([0.6, 0.0, 2.0]) for name in BOTH},
        {name: np.array([1, 0, 3]) for name in BOTH},
    )
    rng, dominants = np.random.default_rng(0), set()
    for _ in range(200):
        privacy = quiet(noise=lambda size: scale * rng.standard_normal(size))
        found = privacy.statistics([ClassStats(*stats)] * 3, BOTH, 3)
        for name in BOTH:
            assert (found.count[name] >= 0).all()
            assert (
                (found.probability_sum[name] >= 0)
                & (found.probability_sum[name] <= found.count[name])
            ).all()
        decided = decide_dominance(found, kappa=2.0)
        dominants.add(decided.dominant)
        for temperature in decided.temperature.values():
            assert ((temperature > 0) & (temperature <= 1)).all()
    assert dominants & set(BOTH)


def test_the_noise_is_normal_and_no_seed_brings_it_back() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 (on purpose: it must not matter)
        draws.append(system_noise(100_000))
    assert not np.array_equal(*draws)
    assert kstest(np.concatenate(draws), norm.cdf).pvalue > 1e-6
    assert np.isfinite(draws).all()


@pytest.mark.parametrize("seed", range(5))
def test_one_nodes_reply_moves_what_is_released_by_no_more_than_the_account_assumes(
    federation: Maker, make_strategy: Maker, train_round: Maker, seed: int
) -> None:
    """Replace one reply of three by any other, or by an error.

    No group's average moves by more than 2 C / n.
    """
    rng, c = np.random.default_rng(seed), 0.7
    values = {part: rng.normal() * 10.0 ** rng.integers(-3, 4) for part in range(3)}
    others: list[dict[str, Any]] = [
        {"values": {**values, 1: rng.normal() * 100}},
        {"replies": {1: _raising}},
    ]
    results = []
    for changes in ({}, *others):
        nodes = federation([BOTH, BOTH, ("audio",)], [1, 5, 9], **{"values": values, **changes})
        found, _ = train_round(
            make_strategy(privacy=quiet(clip_norm=c)), nodes.grid(), arrays=ARRAYS
        )
        results.append(found)
    asked = {"ear.w": 3, "eye.w": 2, "head.w": 3}
    for other in results[1:]:
        for name, n in asked.items():
            assert np.linalg.norm(results[0][name] - other[name]) <= 2 * c / n + 1e-5


def test_opposite_updates_reach_the_sensitivity_that_the_account_assumes() -> None:
    before, up, down = ({"w": np.full(4, value)} for value in (0.0, 9.0, -9.0))
    averages = [
        quiet(clip_norm=0.7).average(before, [x], {"g": ("w",)}, {"g": 1})["w"] for x in (up, down)
    ]
    assert np.linalg.norm(averages[0] - averages[1]) == pytest.approx(2 * 0.7)


def test_one_nodes_statistics_move_the_sums_by_at_most_twice_s() -> None:
    rng = np.random.default_rng(0)
    other = ClassStats({"audio": np.full(2, 1.0)}, {"audio": np.full(2, 9)})
    sums = []
    for _ in range(50):
        count = rng.integers(0, 10**6, 2)
        mine = ClassStats({"audio": count * rng.uniform(size=2)}, {"audio": count})
        found = quiet(statistics_clip_norm=3.0).statistics([other, mine], ["audio"], 2)
        sums.append(np.concatenate([found.probability_sum["audio"], found.count["audio"]]))
    assert 0 < max(np.linalg.norm(a - b) for a in sums for b in sums) <= 6.0


# ---- account


def exact_delta(z: float, releases: int, epsilon: float) -> float:
    """Return the delta of a Gaussian mechanism of sensitivity 2 sqrt(k) and noise z (Balle and
    Wang, 2018).
    """
    distance = 2 * np.sqrt(releases) / z
    return float(norm.cdf(distance / 2 - epsilon / distance)
                 - np.exp(epsilon) * norm.cdf(-distance / 2 - epsilon / distance))  # fmt: skip


@pytest.mark.parametrize(
    ("z", "releases", "delta"), [(4.0, 1, 1e-5), (4.0, 16, 1e-5), (30.0, 80, 1e-3), (1.0, 4, 0.1)]
)
def test_epsilon_is_the_closed_form_of_the_gaussian(z: float, releases: int, delta: float) -> None:
    epsilon = Privacy(z, 1.0, 1.0, delta).epsilon(releases)
    assert exact_delta(z, releases, epsilon) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("z", "releases"), [(4.0, 1), (8.0, 20), (30.0, 80)])
def test_epsilon_is_just_below_the_renyi_accountants(z: float, releases: int) -> None:
    renyi = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    renyi.compose(dp_accounting.GaussianDpEvent(z / 2), releases)  # noise z, sensitivity 2
    bound = renyi.get_epsilon(1e-5)
    assert 0.8 * bound < Privacy(z, 1.0, 1.0, 1e-5).epsilon(releases) < bound


def test_nothing_released_costs_nothing() -> None:
    assert Privacy(1.0, 1.0, 1.0, 1e-5).epsilon(0) == 0


@pytest.mark.parametrize(("method", "vectors"), [("fedcmi", [4, 3, 3]), ("fedavg", [3, 2, 2])])
def test_nodes_are_charged_for_their_groups_and_statistics_in_every_round(
    federation: Maker, make_strategy: Maker, train_round: Maker, method: str, vectors: list[int]
) -> None:
    privacy = quiet()
    strategy = make_strategy(privacy=privacy, method=METHODS[method])
    nodes = federation([BOTH, ("audio",), ("visual",)], [1, 1, 1])
    grid = nodes.grid()
    for done in (1, 2, 3):
        _, metrics = train_round(strategy, grid, done, arrays=ARRAYS)
        assert strategy.releases == {part: done * count for part, count in enumerate(vectors)}
        expected = {"epsilon": privacy.epsilon(done * vectors[0]), "delta": 1e-5}
        assert strategy.report.privacy == expected
        assert dict(metrics) == {"num-examples": 0, "refused": 0, **expected}
    assert strategy.state().releases == strategy.releases
    following = make_strategy(privacy=privacy, method=METHODS[method])
    following.resume(3, strategy.state(), nodes_remember=True)
    train_round(following, grid, 1, arrays=ARRAYS)
    assert following.releases[0] == 4 * vectors[0]


def test_nodes_that_are_not_asked_are_not_charged_and_failed_rounds_are(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    nodes = federation([BOTH] * 4, [1] * 4)
    strategy = make_strategy(privacy=quiet(), fraction_train=0.5, min_replies=2, failure_budget=9)
    grid = nodes.grid()
    train_round(strategy, grid, 1, arrays=ARRAYS)
    asked = {part for part, _ in nodes.tasks}
    assert strategy.releases == dict.fromkeys(asked, 4)
    assert len(asked) == 2
    messages = strategy.configure_train(2, *_sent(ARRAYS), grid)
    aggregated, _ = strategy.aggregate_train(2, list(grid.send_and_receive(messages))[:1])
    assert aggregated is None
    assert sum(strategy.releases.values()) == 16


def test_a_round_that_nobody_could_be_asked_in_says_what_was_spent_before(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    strategy, grid = make_strategy(privacy=quiet()), federation([BOTH], [1]).grid()
    train_round(strategy, grid, 1, arrays=ARRAYS)
    spent, grid.contexts = strategy.report.privacy, {}
    strategy.configure_train(2, *_sent(ARRAYS), grid)
    assert strategy.report.failed
    assert strategy.report.privacy == spent == {"epsilon": quiet().epsilon(4), "delta": 1e-5}


def _sent(arrays: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()}), ConfigRecord()


def test_no_round_is_started_that_would_exceed_the_budget(
    federation: Maker, make_strategy: Maker, train_round: Maker
) -> None:
    budget = (quiet().epsilon(8) + quiet().epsilon(12)) / 2  # two rounds of 4 vectors fit
    nodes, strategy = federation([BOTH], [1]), make_strategy(privacy=quiet(max_epsilon=budget))
    grid = nodes.grid()
    for server_round in (1, 2):
        train_round(strategy, grid, server_round, arrays=ARRAYS)
    with pytest.raises(
        PrivacyBudgetError, match=r"epsilon is .* and would be .* after one more round"
    ):
        train_round(strategy, grid, 3, arrays=ARRAYS)
    assert len(nodes.tasks) == 2
    assert strategy.releases == {0: 8}
