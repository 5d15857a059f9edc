"""Nodes are called what their deployment calls them."""

from pathlib import Path

import pytest

from fedcmi_flwr.machine.node_names import VARIABLE, called, read_names, write_names


def test_a_node_has_its_name_or_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.json"
    monkeypatch.delenv(VARIABLE, raising=False)
    assert called(12345678901234567890) == "node 12345678901234567890"
    monkeypatch.setenv(VARIABLE, str(path))
    assert (called(7), called(7, own="edge-9")) == ("node 7", "node 'edge-9'")
    write_names(path, {12345678901234567890: "edge-2"})
    # A node cannot pass for another one
    assert called(12345678901234567890, own="edge-1") == "edge-2"
    assert called(7) == "node 7"
    write_names(path, read_names(path) | {7: "edge-1"})  # a device that is added is known at once
    assert (called(7), called(12345678901234567890)) == ("edge-1", "edge-2")
