"""Compressed updates through the product.

What travels, what a node keeps, and what the server makes of it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from commands import fedcmi
from federated import Federated, federate
from flwr.app import Array, ArrayRecord

from fedcmi_flwr.client.compressing import RESIDUAL
from fedcmi_flwr.wire import read_train_reply
from server_app.run.directory import read_metrics

NODES = ["audio+visual"] * 2
WAYS = {
    "int8": {"update_compression": "int8"},
    "top-k": {"update_compression": "top-k", "top_k_share": 0.1},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(32, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("compressed") / "toy", present)


def started(directory: Path, toy: Path, **changes: Any) -> Federated:
    return federate(directory, toy, NODES, method="fedavg", **changes)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_out_of_a_round_is_added_in_the_next(
    tmp_path: Path, toy: Path, way: str
) -> None:
    """What the server reads of a node after round 1, and the node's residual, are together its
    weights uncompressed.
    """
    plain, small = started(tmp_path / "plain", toy), started(tmp_path / "small", toy, **WAYS[way])
    start = dict(small.arrays)
    plain.round(1)
    small.round(1)
    expected, found = (
        read_train_reply(each.replies[0], start, [], 4).arrays for each in (plain, small)
    )
    assert any(not np.array_equal(expected[name], found[name]) for name in found)

    residual = {name.removeprefix(RESIDUAL): value for name, value in small.memory(0).items()}
    assert residual.keys() == {name for name, value in start.items() if value.ndim > 1}
    for name, value in found.items():
        whole = value + residual[name] if name in residual else value
        assert np.allclose(whole, expected[name], atol=1e-6)

    small.round(2)
    second = {name.removeprefix(RESIDUAL): value for name, value in small.memory(0).items()}
    assert any(not np.array_equal(residual[name], second[name]) for name in residual)


@pytest.mark.parametrize(("way", "most"), [("int8", 0.4), ("top-k", 0.45)])
def test_fewer_bytes_go_up_and_as_many_down(
    tmp_path: Path, toy: Path, way: str, most: float
) -> None:
    sizes = []
    for name, changes in (("plain", {}), ("small", WAYS[way])):
        found = started(tmp_path / name, toy, embedding_dim=32, **changes)
        found.round(1)
        sizes.append((found.strategy.report.bytes_down[0], found.strategy.report.bytes_up[0]))
    (down, up), (same_down, small_up) = sizes
    assert abs(same_down - down) < 200
    assert small_up < most * up


def test_a_damaged_record_is_refused_by_its_node_and_key(tmp_path: Path, toy: Path) -> None:
    found = started(tmp_path / "run", toy, update_compression="int8")

    def damage(replies: list[Any]) -> list[Any]:
        packed = dict(replies[0].content["compressed"])
        packed["scales"] = Array(np.full(packed["scales"].shape, np.nan, np.float32))
        replies[0].content["compressed"] = ArrayRecord(packed)
        return replies

    found.round(1, damage)
    [refused] = found.strategy.report.refused
    assert "compressed: a scale is below 0, NaN or Inf" in refused


@pytest.mark.parametrize(
    "way", [["update-compression=int8"], ["update-compression=top-k", "top-k-share=0.1"]]
)
def test_a_run_of_the_command_line_learns(
    tmp_path: Path, av_digits_dir: Path, way: list[str]
) -> None:
    chosen = [part for text in way for part in ("--set", text)]
    options = [
        "--engine",
        "in-process",
        "--num-nodes",
        "4",
        "--rounds",
        "4",
        "--run-dir",
        tmp_path / "run",
    ]
    done = fedcmi("run", *options, "--data", av_digits_dir, *chosen)
    assert done.exit_code == 0, done.output
    last = read_metrics(tmp_path / "run")[-1]
    assert last["accuracy"]["fused"] > 0.5
    assert sum(last["bytes_up"].values()) < 0.5 * sum(last["bytes_down"].values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "update-compression=int4",
            "update-compression = 'int4': must be one of none, int8, top-k",
        ),
        ("top-k-share=0", "top-k-share = 0.0: must be a number above 0 to 1"),
        ("top-k-share=1.5", "top-k-share = 1.5: must be a number above 0 to 1"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, change: str, words: str) -> None:
    done = fedcmi("run", "--engine", "in-process", "--run-dir", tmp_path / "run", "--set", change)
    assert (done.exit_code, words in done.stderr) == (1, True), done.stderr
