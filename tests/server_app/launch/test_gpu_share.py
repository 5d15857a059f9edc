"""How many clients share a GPU, by hand numbers.

And the probe on a real node, with torch's counters replaced.
"""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch

from client_app.app import app as client_app
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.ownership import owned_modalities
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.wire.packing import WireError
from server_app.launch import gpu_share
from server_app.launch.start import resolve

GB = 10**9


@pytest.mark.parametrize(
    ("free", "needed", "fit"),
    [
        (24 * GB, 2 * GB, 6),  # 21.6 / (2.5 + 0.6) = 6.97
        (140 * GB, int(0.4 * GB), 114),  # 126 / (0.5 + 0.6) = 114.5
        (8 * GB, 20 * GB, 1),  # one is tried
    ],
)
def test_clients_that_fit_by_hand(free: int, needed: int, fit: int) -> None:
    assert gpu_share.clients_that_fit(free, needed) == fit


@pytest.mark.parametrize(
    ("fit", "gpus", "cores", "sampled", "expected"),
    [(6, 1, 16, 10, 6), (6, 1, 4, 10, 4), (6, 1, 16, 3, 3), (6, 4, 16, 10, 3), (6, 8, 4, 100, 1)],
)
def test_clients_on_each_gpu_by_hand(
    fit: int, gpus: int, cores: int, sampled: int, expected: int
) -> None:
    assert gpu_share.clients_on_each(fit, gpus, cores, sampled) == expected


def test_shares_never_add_up_to_more_than_a_gpu() -> None:
    assert gpu_share.share_of(3) == 0.333
    assert all(at_once * gpu_share.share_of(at_once) <= 1 for at_once in range(1, 200))


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, str | int | float | bool]:
    data = oracle.prepare(
        tmp_path / "toy", dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    )
    return resolve(None, {"data": str(data), "device": "cpu", "batch-size": 8}, ["local-epochs=2"])


def test_without_a_gpu_nothing_is_measured(raw: dict[str, str | int | float | bool]) -> None:
    share, line = gpu_share.gpu_share(raw, 4, client_app, None)
    assert share == 0
    assert line.startswith("clients train on the CPU, ")


def test_a_cluster_is_named(
    raw: dict[str, str | int | float | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    _, line = gpu_share.gpu_share(raw, 4, client_app, None)
    assert (
        line
        == "clients train on the CPU of the Ray cluster 10.0.0.1:6379, as many at a time as it "
        "has cores"
    )


def test_the_probe_trains_one_node_for_one_epoch(
    raw: dict[str, str | int | float | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters are torch's.

    Here they are replaced, and tell whether training lay between them.
    """
    epochs: list[int] = []
    real = SGD.step

    def step(self: SGD) -> None:
        epochs.append(1)
        real(self)

    monkeypatch.setattr(SGD, "step", step)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", epochs.clear)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: len(epochs) * GB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # 20 samples, 8 a batch
    assert gpu_share.measured_client_bytes({**raw, "partition": "iid"}, 3, client_app) == 3 * GB


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("visual",)])
def test_the_probe_is_a_node_that_owns_most(
    raw: dict[str, str | int | float | bool], modalities: tuple[str, ...]
) -> None:
    config = read_run_config({**raw, "multimodal-ratio": 0.25})
    dealt = owned_modalities(("audio", "visual"), 0.25, 4, config.training.seed)
    assert sorted(map(len, dealt)) == [1, 1, 1, 2]
    chosen = gpu_share.richest_partition(config, modalities, 4)
    first = [len(set(owned) & set(modalities)) == len(modalities) for owned in dealt].index(True)
    assert chosen == first


def test_a_node_that_cannot_be_used_says_why(
    raw: dict[str, str | int | float | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    with pytest.raises(RoundFailedError, match="natural partition: 50 nodes"):
        gpu_share.measured_client_bytes(
            {**raw, "partition": "natural", "wait-timeout": 0.01}, 50, client_app
        )


def test_a_node_that_cannot_train_says_why(
    raw: dict[str, str | int | float | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    with pytest.raises(WireError, match="training diverged"):
        gpu_share.measured_client_bytes({**raw, "lr": 1e9, "partition": "iid"}, 3, client_app)
