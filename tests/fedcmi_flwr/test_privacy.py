"""Differential privacy: clipping and noise by hand, epsilon in closed form, and results with protected numbers only."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import oracle
import pytest
from federated import Federated, federate
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from scipy.stats import kstest, norm

from client_app.app import app as client_app
from fedcmi_flwr import wire
from fedcmi_flwr.config import read_run_config
from fedcmi_flwr.dominance import decide_dominance
from fedcmi_flwr.guards import Guards
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.nodes import content_of
from fedcmi_flwr.privacy import Privacy, PrivacyBudgetError, check_arrays, clipped, system_noise
from fedcmi_flwr.robust import RobustAggregation
from fedcmi_flwr.sections import ConfigError
from fedcmi_flwr.types import ClassStats
from server_app import launch
from server_app.html_report import write_report
from server_app.report import RunDirectoryError, read_metrics

BOTH = ("audio", "visual")
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([4.0], np.float32),
}
README = Path(__file__).parents[2] / "README.md"
Maker = Callable[..., Any]


def silent(size: int) -> np.ndarray:
    """Return no noise."""
    return np.zeros(size)


def quiet(**changes: Any) -> Privacy:  # noqa: ANN401
    """Return a mechanism without noise: C = 1, S = 1, an account as for z = 4."""
    return Privacy(**{"noise_multiplier": 4.0, "clip_norm": 1.0, "statistics_clip_norm": 1.0, "delta": 1e-5,
                      "noise": silent, **changes})  # fmt: skip


def _raising(message: Message, part: int) -> Message:
    raise ValueError("loss 0.123 of 77 samples")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in BOTH}
    return oracle.prepare(tmp_path_factory.mktemp("privacy") / "toy", present)


# ---- mechanism


@pytest.mark.parametrize("examples", [[1, 1], [1, 1000]])
def test_updates_are_clipped_by_group_and_averaged_with_equal_weights(
    federation: Maker, make_strategy: Maker, train_round: Maker, examples: list[int]
) -> None:
    """Node 0 owns both and adds 3 to each number, node 1 owns audio and adds 0.5; C = 1.

    ear: node 0's (3, 3) becomes (0.7071, 0.7071), node 1's (0.5, 0.5) has norm 0.7071 and stays: mean 0.60355.
    eye: 3 becomes 1. head: 3 becomes 1, 0.5 stays: mean 0.75.
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
def test_the_noise_on_an_average_has_standard_deviation_z_c_over_n(z: float, c: float, n: int) -> None:
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
    """One class: (sum, count) = (3, 4) for audio and (0, 12) for visual have norm 13; S = 1.3 scales by 0.1."""
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
    stats = {name: np.array([0.6, 0.0, 2.0]) for name in BOTH}, {name: np.array([1, 0, 3]) for name in BOTH}
    rng, dominants = np.random.default_rng(0), set()
    for _ in range(200):
        privacy = quiet(noise=lambda size: scale * rng.standard_normal(size))
        found = privacy.statistics([ClassStats(*stats)] * 3, BOTH, 3)
        for name in BOTH:
            assert (found.count[name] >= 0).all()
            assert ((found.probability_sum[name] >= 0) & (found.probability_sum[name] <= found.count[name])).all()
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
    """Replace one reply of three by any other, or by an error: no group's average moves by more than 2 C / n."""
    rng, c = np.random.default_rng(seed), 0.7
    values = {part: rng.normal() * 10.0 ** rng.integers(-3, 4) for part in range(3)}
    others: list[dict[str, Any]] = [{"values": {**values, 1: rng.normal() * 100}}, {"replies": {1: _raising}}]
    results = []
    for changes in ({}, *others):
        nodes = federation([BOTH, BOTH, ("audio",)], [1, 5, 9], **{"values": values, **changes})
        found, _ = train_round(make_strategy(privacy=quiet(clip_norm=c)), nodes.grid(), arrays=ARRAYS)
        results.append(found)
    asked = {"ear.w": 3, "eye.w": 2, "head.w": 3}
    for other in results[1:]:
        for name, n in asked.items():
            assert np.linalg.norm(results[0][name] - other[name]) <= 2 * c / n + 1e-5


def test_opposite_updates_reach_the_sensitivity_that_the_account_assumes() -> None:
    before, up, down = ({"w": np.full(4, value)} for value in (0.0, 9.0, -9.0))
    averages = [quiet(clip_norm=0.7).average(before, [x], {"g": ("w",)}, {"g": 1})["w"] for x in (up, down)]
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
    """Return the delta of a Gaussian mechanism of sensitivity 2 sqrt(k) and noise z (Balle and Wang, 2018)."""
    distance = 2 * np.sqrt(releases) / z
    return float(norm.cdf(distance / 2 - epsilon / distance)
                 - np.exp(epsilon) * norm.cdf(-distance / 2 - epsilon / distance))  # fmt: skip


@pytest.mark.parametrize(("z", "releases", "delta"), [(4.0, 1, 1e-5), (4.0, 16, 1e-5), (30.0, 80, 1e-3), (1.0, 4, 0.1)])
def test_epsilon_is_the_closed_form_of_the_gaussian(z: float, releases: int, delta: float) -> None:
    epsilon = Privacy(z, 1.0, 1.0, delta).epsilon(releases)
    assert exact_delta(z, releases, epsilon) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("z", "releases"), [(4.0, 1), (8.0, 20), (30.0, 80)])
def test_epsilon_is_just_below_the_renyi_accountants(z: float, releases: int) -> None:
    renyi = dp_accounting.rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
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
    with pytest.raises(PrivacyBudgetError, match=r"epsilon is .* and would be .* after one more round"):
        train_round(strategy, grid, 3, arrays=ARRAYS)
    assert len(nodes.tasks) == 2
    assert strategy.releases == {0: 8}


# ---- what is released, and what is refused


def test_a_rounds_report_holds_nothing_of_nodes_that_is_not_protected(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    """Two federations that differ in samples, losses and an error's text have the same report but for the weights."""
    records = []
    for examples, words in ([3, 5, 7], "0.123 of 77"), ([300_000, 2, 7], "other"):

        def fail(message: Message, part: int, words: str = words) -> Message:
            raise ValueError(words)

        nodes, strategy = federation([BOTH] * 3, examples, replies={2: fail}), make_strategy(privacy=quiet())
        train_round(strategy, nodes.grid(), arrays=ARRAYS)
        report = strategy.report
        records.append((report.bytes_up, report.refused, report.examples, report.num_examples, report.owners))
        assert (report.losses, report.stats.count, report.stats.probability_sum) == ({}, {}, {})
        assert any(words in line for line in log_lines)
    assert records[0] == records[1]
    assert records[0][1] == ["node 1003 (partition 2, audio+visual): the reason is in the server's log."]


@pytest.mark.parametrize("name", METHODS)
def test_methods_whose_nodes_send_arrays_of_their_own_are_refused(make_strategy: Maker, toy: Path, name: str) -> None:
    """What each method really sends decides whether it should be."""
    keys = {"method": name, "dp-noise-multiplier": 1.0}
    if name not in _senders(toy):
        make_strategy(privacy=quiet(), method=METHODS[name])
        assert read_run_config(launch.resolve(None, keys, [])).privacy.dp_noise_multiplier == 1.0
        return
    with pytest.raises(ValueError, match="send arrays of their own"):
        make_strategy(privacy=quiet(), method=METHODS[name])
    with pytest.raises(ConfigError, match="send arrays of their own"):
        launch.resolve(None, keys, [])


_REPLIES: dict[str, set[tuple[str, str]]] = {}


def _keys_sent(name: str, toy: Path) -> set[tuple[str, str]]:
    """Return (record, key) of what nodes with both and one modality reply in two rounds of a method."""
    if name not in _REPLIES:
        nodes = federate(toy.parent / f"keys-{name}", toy, ["audio+visual", "audio", "visual"], method=name)
        found = set()
        for server_round in (1, 2):
            nodes.round(server_round)
            found |= {(record, key) for reply in nodes.replies for record, key in _keys(content_of(reply))}
        _REPLIES[name] = found | {(r, k) for reply in _other_replies(nodes) for r, k in _keys(reply)}
    return _REPLIES[name]


def _other_replies(nodes: Federated) -> list[Message]:
    """Return the nodes' replies to a query and to an evaluate message."""
    ids, strategy = list(nodes.grid.get_node_ids()), nodes.strategy
    queries = [wire.query_message(node, 1) for node in ids]
    strategy.fraction_evaluate = 1.0
    evaluations = strategy.configure_evaluate(2, *_task(nodes), nodes.grid)
    replies = [*nodes.grid.send_and_receive(queries), *nodes.grid.send_and_receive(evaluations)]
    assert len(replies) == 2 * len(ids)
    return [content_of(reply) for reply in replies]


def _task(nodes: Federated) -> tuple[Any, Any]:
    return _sent(nodes.arrays)[0], ConfigRecord(nodes.federation.task_config())


def _keys(message: Message) -> set[tuple[str, str]]:
    return {(record, key) for record, values in message.content.items() for key in values}


def _senders(toy: Path) -> set[str]:
    return {name for name in METHODS if any(record == "method-arrays" for record, _ in _keys_sent(name, toy))}


@pytest.mark.parametrize("name", METHODS)
def test_every_key_that_leaves_a_node_stands_in_the_readmes_table(name: str, toy: Path) -> None:
    rows = re.findall(r"^\| (?:query|train|evaluate) \| `([a-z-]+)` \| (.*?) \|", README.read_text("utf-8"), re.M)
    patterns = {(record, re.sub("<[a-z]+>", ".+", re.escape(key))) for record, keys in rows
                for key in re.findall(r"`([^`]+)`", keys)}  # fmt: skip
    sent = _keys_sent(name, toy)
    assert {record for record, _ in sent} >= {"node", "arrays", "layout", "metrics"}
    unknown = {(record, key) for record, key in sent
               if not any(record == known and re.fullmatch(pattern, key) for known, pattern in patterns)}  # fmt: skip
    assert not unknown


def test_evaluations_on_nodes_are_refused(make_strategy: Maker) -> None:
    with pytest.raises(ValueError, match="fraction-evaluate"):
        make_strategy(privacy=quiet(), fraction_evaluate=0.5)
    with pytest.raises(ConfigError, match="fraction-evaluate"):
        launch.resolve(None, {"dp-noise-multiplier": 1.0, "fraction-evaluate": 0.5}, [])


@pytest.mark.parametrize(
    ("keys", "parts"),
    [({"aggregation": "median"}, {"aggregation": RobustAggregation("median")}),
     ({"max-example-ratio": 2.0}, {"guards": Guards(max_example_ratio=2.0)})],
)  # fmt: skip
def test_what_lets_one_node_decide_about_anothers_part_is_refused(
    make_strategy: Maker, keys: dict[str, Any], parts: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(keys))):
        make_strategy(privacy=quiet(), **parts)
    with pytest.raises(ConfigError, match=next(iter(keys))):
        launch.resolve(None, {"dp-noise-multiplier": 1.0, **keys}, [])


def test_a_line_about_a_clipped_update_does_not_say_its_norm(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    strategy = make_strategy(privacy=quiet(), guards=Guards(max_update_norm=0.5))
    train_round(strategy, federation([("audio",)], [1], values={0: 3.0}).grid(), arrays=ARRAYS)
    assert set(strategy.report.bounded) == {"Something was kept within bounds: what is in the server's log."}
    assert any("has the norm 4.243" in line for line in log_lines)


@pytest.mark.parametrize("name", ["a.running_var", "a.running_mean", "a.num_batches_tracked"])
def test_counters_and_running_statistics_are_refused(name: str) -> None:
    dtype = np.int64 if name.endswith("tracked") else np.float32
    with pytest.raises(ValueError, match=rf'{name}.*normalization = "group"'):
        check_arrays({"a.w": np.zeros(2, np.float32), name: np.zeros(2, dtype)})


def test_a_model_with_batch_norm_is_refused_before_the_first_round(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(ValueError, match='normalization = "group"'):
        federate(tmp_path, toy, ["audio+visual"], method="fedcmi", dp_noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("noise_multiplier", 0.0), ("clip_norm", -1.0), ("statistics_clip_norm", np.inf), ("delta", 1.0),
     ("delta", 0.0), ("max_epsilon", 0.0)],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        quiet(**{key: value})


@pytest.mark.parametrize(("key", "value"), [("dp-delta", 1.0), ("dp-delta", 0.0), ("dp-noise-multiplier", -1.0),
                                            ("dp-clip-norm", 0.0)])  # fmt: skip
def test_configurations_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        launch.resolve(None, {key: value}, [])


def test_a_missing_accountant_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedcmi-flwr\[privacy\]'"):
        quiet()


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e300, 1e300], [np.inf, 1.0], [np.nan, 1.0]])
def test_clipping_makes_nothing_of_zeros_and_of_what_has_no_length(values: list[float]) -> None:
    assert clipped(np.array(values), 1.0).tolist() == [0, 0]


def test_a_hostile_update_beyond_double_precision_leaves_the_average_finite() -> None:
    before = {"w": np.full(2, -1.7e308)}
    found = quiet().average(before, [{"w": np.full(2, 1.7e308)}], {"g": ("w",)}, {"g": 1})
    assert found["w"].tolist() == before["w"].tolist()


# ---- whole runs

LIGHT = {"local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "fraction-train": 1.0, "min-partition-size": 2,
         "partition": "iid", "device": "cpu", "num-server-rounds": 4, "dp-noise-multiplier": 5.0}  # fmt: skip


class RoundsAreOverError(Exception):
    """Ends a run as a test wants it."""


def run(directory: Path, data: Path, until: int | None = None, **changes: Any) -> list[str]:  # noqa: ANN401
    """Run 3 nodes with both modalities; end the run when round ``until`` is shown."""
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if line.startswith(f"round {until}/"):
            raise RoundsAreOverError

    keys = {**LIGHT, "data": str(data), "run-dir": str(directory), **changes}
    launch.run_in_process(launch.resolve(None, keys, []), 3, client_app, show)
    return lines


def test_a_run_trains_and_says_what_it_spent(tmp_path: Path, toy: Path) -> None:
    run(tmp_path / "run", toy)
    records = read_metrics(tmp_path / "run")
    privacy = Privacy(5.0, 1.0, 1.0, 1e-5)
    assert [record["privacy"] for record in records] == [
        None, *({"epsilon": pytest.approx(privacy.epsilon(4 * done)), "delta": 1e-5} for done in (1, 2, 3, 4))
    ]  # fmt: skip
    assert json.loads((tmp_path / "run" / "privacy.json").read_text()) == {"releases": {"0": 16, "1": 16, "2": 16}}
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert f"differential privacy of nodes: epsilon {privacy.epsilon(16):.3g} at delta 1e-05" in summary
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert f"epsilon {privacy.epsilon(16):.3g} at delta 1e-05" in page
    for record in records[1:]:
        assert (record["losses"], record["examples"], record["num_examples"]) == ({}, {}, 0)
        assert record["class_statistics"] == {"probability_sum": {}, "count": {}}
        assert record["evaluated_on_nodes"] == {}


def test_a_run_that_has_spent_its_budget_is_finished(tmp_path: Path, toy: Path) -> None:
    budget = Privacy(5.0, 1.0, 1.0, 1e-5).epsilon(11)
    run(tmp_path / "run", toy, **{"dp-max-epsilon": budget})
    assert [record["round"] for record in read_metrics(tmp_path / "run")] == [0, 1, 2]
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert "ended after 2 of 4 rounds: one more would exceed dp-max-epsilon" in summary


def test_a_budget_too_small_for_one_round_is_an_error(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(PrivacyBudgetError, match=r"maximum of 0\.1"):
        run(tmp_path / "run", toy, **{"dp-max-epsilon": 0.1})
    assert not (tmp_path / "run" / "summary.md").exists()


def test_a_run_that_goes_on_pays_for_the_rounds_that_it_does_again(tmp_path: Path, toy: Path) -> None:
    """Killed after round 3, with a checkpoint of round 2: 3 + 2 rounds of 4 vectors, not 4."""
    keys = {"checkpoint-every": 2, "node-memory": "run-dir"}
    with pytest.raises(RoundsAreOverError):
        run(tmp_path / "run", toy, until=3, **keys)
    run(tmp_path / "run", toy, resume=True, **keys)
    records = read_metrics(tmp_path / "run")
    assert [record["round"] for record in records] == [0, 1, 2, 3, 4]
    privacy = Privacy(5.0, 1.0, 1.0, 1e-5)
    spent = [record["privacy"]["epsilon"] for record in records[1:]]
    assert spent == pytest.approx([privacy.epsilon(4 * rounds) for rounds in (1, 2, 4, 5)])


def test_a_run_whose_account_is_gone_does_not_go_on(tmp_path: Path, toy: Path) -> None:
    keys = {"node-memory": "run-dir"}
    with pytest.raises(RoundsAreOverError):
        run(tmp_path / "run", toy, until=2, **keys)
    (tmp_path / "run" / "privacy.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"privacy\.json.*has spent cannot be read"):
        run(tmp_path / "run", toy, resume=True, **keys)
