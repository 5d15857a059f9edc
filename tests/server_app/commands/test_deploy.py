"""What deployments' commands say on a bad day."""

import socket
from pathlib import Path

import pytest
from commands import fedcmi

from server_app.deploy.deployment import DeploymentError
from server_app.deploy.rehearsal import HOST, Rehearsal, Status, check_free


def test_what_a_process_prints_is_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rehearsal, "__init__", lambda rehearsal, directory: None)
    monkeypatch.setattr(Rehearsal, "status", lambda rehearsal: [Status("edge-1", 7, True, True, "gone [/path]")])
    done = fedcmi("deploy", "status", tmp_path)
    assert (done.exit_code, "[/path]" in done.stdout) == (0, True)


def test_an_occupied_port_is_told_at_once() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DeploymentError, match=rf"{HOST}:{port}: another process has this port"):
            check_free(port)
    check_free(port)
