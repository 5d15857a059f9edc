"""Differential privacy.

What leaves nodes and server is protected, and what could not be is refused.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from federated import Federated, federate
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from noiseless import quiet

from fedcmi_flwr import wire
from fedcmi_flwr.aggregation.privacy import check_arrays, clipped
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.nodes import content_of
from server_app.launch import start as launch

BOTH = ("audio", "visual")
ARRAYS = {
    "ear.w": np.array([1.0, 2.0], np.float32),
    "eye.w": np.array([3.0], np.float32),
    "head.w": np.array([4.0], np.float32),
}
README = Path(__file__).parents[3] / "fedcmi_flwr" / "aggregation" / "README.md"
Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in BOTH}
    return oracle.prepare(tmp_path_factory.mktemp("privacy") / "toy", present)


def test_a_rounds_report_holds_nothing_of_nodes_that_is_not_protected(
    federation: Maker, make_strategy: Maker, train_round: Maker, log_lines: list[str]
) -> None:
    """Two federations that differ in samples, losses and an error's text have the same report but
    for the weights.
    """
    records = []
    for examples, words in ([3, 5, 7], "0.123 of 77"), ([300_000, 2, 7], "other"):

        def fail(message: Message, part: int, words: str = words) -> Message:
            raise ValueError(words)

        nodes, strategy = (
            federation([BOTH] * 3, examples, replies={2: fail}),
            make_strategy(privacy=quiet()),
        )
        train_round(strategy, nodes.grid(), arrays=ARRAYS)
        report = strategy.report
        records.append(
            (report.bytes_up, report.refused, report.examples, report.num_examples, report.owners)
        )
        assert (report.losses, report.stats.count, report.stats.probability_sum) == ({}, {}, {})
        assert report.train_seconds == {}
        assert any(words in line for line in log_lines)
    assert records[0] == records[1]
    assert records[0][1] == [
        "node 1003 (partition 2, audio+visual): the reason is in the server's log."
    ]


@pytest.mark.parametrize("name", METHODS)
def test_methods_whose_nodes_send_arrays_of_their_own_are_refused(
    make_strategy: Maker, toy: Path, name: str
) -> None:
    """What each method really sends decides whether it should be."""
    keys = {"method": name, "dp-noise-multiplier": 1.0}
    if name not in _senders(toy):
        make_strategy(privacy=quiet(), method=METHODS[name])
        assert read_run_config(launch.resolve(None, keys, [])).privacy.noise_multiplier == 1.0
        return
    with pytest.raises(ValueError, match="send arrays of their own"):
        make_strategy(privacy=quiet(), method=METHODS[name])
    with pytest.raises(ConfigError, match="send arrays of their own"):
        launch.resolve(None, keys, [])


_REPLIES: dict[str, set[tuple[str, str]]] = {}


def _keys_sent(name: str, toy: Path) -> set[tuple[str, str]]:
    """Return (record, key) of what nodes with both and one modality reply in two rounds of a
    method.
    """
    if name not in _REPLIES:
        nodes = federate(
            toy.parent / f"keys-{name}", toy, ["audio+visual", "audio", "visual"], method=name
        )
        found = set()
        for server_round in (1, 2):
            nodes.round(server_round)
            found |= {
                (record, key) for reply in nodes.replies for record, key in _keys(content_of(reply))
            }
        _REPLIES[name] = found | {
            (r, k) for reply in _other_replies(nodes) for r, k in _keys(reply)
        }
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
    arrays = ArrayRecord({name: Array(value) for name, value in nodes.arrays.items()})
    return arrays, ConfigRecord(nodes.federation.task_config())


def _keys(message: Message) -> set[tuple[str, str]]:
    return {(record, key) for record, values in message.content.items() for key in values}


def _senders(toy: Path) -> set[str]:
    return {
        name
        for name in METHODS
        if any(record == "method-arrays" for record, _ in _keys_sent(name, toy))
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_key_that_leaves_a_node_stands_in_the_readmes_table(name: str, toy: Path) -> None:
    rows = re.findall(
        r"^\| (?:query|train|evaluate) \| `([a-z-]+)` \| (.*?) \|", README.read_text("utf-8"), re.M
    )
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
    assert set(strategy.report.bounded) == {
        "Something was kept within bounds: what is in the server's log."
    }
    assert any("has the norm 4.243" in line for line in log_lines)


@pytest.mark.parametrize("name", ["a.running_var", "a.running_mean", "a.num_batches_tracked"])
def test_counters_and_running_statistics_are_refused(name: str) -> None:
    dtype = np.int64 if name.endswith("tracked") else np.float32
    with pytest.raises(ValueError, match=rf'{name}.*normalization = "group"'):
        check_arrays({"a.w": np.zeros(2, np.float32), name: np.zeros(2, dtype)})


def test_a_model_with_batch_norm_is_refused_before_the_first_round(
    tmp_path: Path, toy: Path
) -> None:
    with pytest.raises(ValueError, match='normalization = "group"'):
        federate(tmp_path, toy, ["audio+visual"], method="fedcmi", dp_noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("noise_multiplier", -1.0), ("clip_norm", 0.0), ("statistics_clip_norm", np.inf), ("delta", 1.0),
     ("delta", 0.0), ("max_epsilon", -1.0)],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"dp-{key.replace('_', '-')} = {value}"):
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
    with pytest.raises(ConfigError, match=r"pip install 'fedcmi-flwr\[privacy\]'"):
        launch.resolve(None, {"dp-noise-multiplier": 1.0}, [])
    assert not launch.read_run_config(launch.resolve(None, {}, [])).privacy.enabled


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e300, 1e300], [np.inf, 1.0], [np.nan, 1.0]])
def test_clipping_makes_nothing_of_zeros_and_of_what_has_no_length(values: list[float]) -> None:
    assert clipped(np.array(values), 1.0).tolist() == [0, 0]


def test_a_hostile_update_beyond_double_precision_leaves_the_average_finite() -> None:
    before = {"w": np.full(2, -1.7e308)}
    found = quiet().average(before, [{"w": np.full(2, 1.7e308)}], {"g": ("w",)}, {"g": 1})
    assert found["w"].tolist() == before["w"].tolist()
