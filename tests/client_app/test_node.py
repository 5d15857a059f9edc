"""A node as its configurations describe it.

What it owns, and what it says where its data is missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from digits import Parts, node_configs, node_of
from federated import federate as federate_small

from fedcmi_flwr import wire
from fedcmi_flwr.config.node import NodeConfig
from fedcmi_flwr.data.prepared import DataError


def test_a_node_owns_what_it_says_of_what_the_run_wants(
    federate: Callable[..., Parts], av_digits_dir: Path
) -> None:
    """In its own order; its directory comes before the run's."""
    federation, _, _ = federate(node_configs("audio"))
    raw: dict[str, Any] = dict(federation.config.raw)
    config = {"partition-id": 3, "modalities": "visual+audio", "data": str(av_digits_dir)}
    node = node_of({**raw, "data": "/nowhere"}, config)
    assert (node.modalities, node.directory) == (("visual", "audio"), av_digits_dir)
    assert node.config == NodeConfig(3, None, ("visual", "audio"), str(av_digits_dir), None)
    assert node.stored.modality_names == ("audio", "visual")
    assert node_of({**raw, "modalities": "audio"}, config).modalities == ("audio",)
    with pytest.raises(
        DataError, match=r"owns \['visual'\], none of the run's modalities \['audio'\]"
    ):
        node_of({**raw, "modalities": "audio"}, {**config, "modalities": "visual"})


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_simulated_node_owns_what_the_ratio_deals_it(
    federate: Callable[..., Parts], ratio: float
) -> None:
    federation, grid, _ = federate(
        [{"partition-id": part, "num-partitions": 4} for part in range(4)], multimodal_ratio=ratio
    )
    chosen = federation.strategy.nodes.sample(grid, 1, 1.0, 1, "train")
    owned = [federation.strategy.nodes.known[node].modalities for node in chosen]
    assert sum(len(names) == 2 for names in owned) == 4 * ratio
    assert (
        sorted(sum(name in names for names in owned) for name in ("audio", "visual"))
        == [2 + 2 * ratio] * 2
    )


def test_a_node_without_its_data_says_so_in_its_reply(federate: Callable[..., Parts]) -> None:
    _, grid, _ = federate(node_configs("audio"))
    grid.contexts[1001].node_config["data"] = "/nowhere"
    reply = next(iter(grid.send_and_receive([wire.query_message(1001, 1)])))
    assert reply.has_error()
    assert "'/nowhere': no such directory" in str(reply.error.reason)


def test_a_device_whose_data_is_gone_is_back_when_the_data_is(tmp_path: Path) -> None:
    """It fails in round 2, cannot be used in round 3, where it is asked, and trains when it is
    asked in round 4.
    """
    both = dict.fromkeys(("audio", "visual"), np.ones(60, dtype=bool))
    whole, device = (oracle.prepare(tmp_path / name, both) for name in ("whole", "device"))
    federated = federate_small(tmp_path / "run", whole, ["audio+visual"] * 2)
    federated.grid.contexts[1002].node_config["data"] = str(device)
    federated.round(1)
    device.rename(tmp_path / "away")
    federated.round(2)
    (line,) = federated.strategy.report.refused
    assert "node 1002" in line
    assert str(device) in line
    federated.round(3)
    assert list(federated.strategy.report.plan.sent) == [1001]
    assert str(device) in federated.strategy.nodes.unusable[1002].reason
    (tmp_path / "away").rename(device)
    federated.round(4)
    assert federated.strategy.report.owners["audio"] == [0, 1]
    assert federated.strategy.nodes.unusable == {}
