"""What a node is told about itself.

What is allowed comes through, everything else is refused by key and value.
"""

from typing import Any

import pytest

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.node import NodeConfig, read_node_config


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"partition-id": 1, "num-partitions": 4}, NodeConfig(1, 4, None, None, None)),
        ({"partition-id": 0, "modalities": "audio"}, NodeConfig(0, None, ("audio",), None, None)),
        (
            {
                "partition-id": 9,
                "num-partitions": 10,
                "modalities": "audio+visual",
                "data": "/d",
                "device": "cpu",
            },
            NodeConfig(9, 10, ("audio", "visual"), "/d", "cpu"),
        ),
        (
            {"partition-id": 0, "modalities": "text", "pretrained": "text=/w"},
            NodeConfig(0, None, ("text",), None, None, "text=/w"),
        ),
    ],
)
def test_node_configurations(raw: dict[str, Any], expected: NodeConfig) -> None:
    assert read_node_config(raw) == expected


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            {"partition-id": 0, "num-partitions": 2, "gpu": 1},
            "unknown key 'gpu'.*partition-id.*modalities",
        ),
        ({"num-partitions": 2}, "partition-id = None"),
        ({"partition-id": -1, "num-partitions": 2}, "partition-id = -1"),
        ({"partition-id": "0", "num-partitions": 2}, "partition-id = '0'"),
        ({"partition-id": True, "num-partitions": 2}, "partition-id = True"),
        ({"partition-id": 2, "num-partitions": 2}, "num-partitions = 2: .*above partition-id 2"),
        ({"partition-id": 0, "num-partitions": 2.0}, "num-partitions = 2.0"),
        ({"partition-id": 0}, "modalities"),
        ({"partition-id": 0, "modalities": ""}, "modalities = ''.*joined by '\\+'"),
        ({"partition-id": 0, "modalities": "audio+"}, "modalities = 'audio\\+'"),
        (
            {"partition-id": 0, "modalities": "audio+audio"},
            "modalities = 'audio\\+audio'.*different",
        ),
    ],
)
def test_bad_node_configurations_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_node_config(raw)
