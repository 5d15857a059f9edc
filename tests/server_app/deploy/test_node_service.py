"""A device's service, over the kit's own proxy and registrar.

The SuperNode is a process that waits.
"""

import os
import sys
import time
from pathlib import Path

import pytest
from sites import Proxied

from server_app.deploy import node_service
from server_app.deploy.device_check import check_device
from server_app.deploy.join import join
from server_app.deploy.node_service import NodeService, remove_old_bundles
from server_app.deploy.renewal import begin_rotation, end_rotation, unaware
from server_app.deploy.reports import read_reports

WAITING = "import time; time.sleep(60)"
ENDING = "raise SystemExit(7)"


@pytest.fixture(scope="module")
def home(server: Proxied, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of edge-0, which has joined."""
    directory = tmp_path_factory.mktemp("device") / "edge-0"
    join(str(server.site.issue_token("edge-0")), directory)
    return directory


class Said(list[str]):
    """What a service says.

    It ends the service, whose SuperNode would wait longer, with a certain word.
    """

    def __init__(self, last: str) -> None:
        super().__init__()
        self.last = last

    def __call__(self, line: str) -> None:
        """Note a line."""
        self.append(line)
        if self.last in line:
            raise KeyboardInterrupt


def supernode(patch: pytest.MonkeyPatch, script: str) -> None:
    """Have services start a script instead of a SuperNode, and look at everything often."""
    patch.setattr(node_service, "TURN", 0.05)
    patch.setattr(node_service.services, "supernode_command", lambda *_: ["python", "-c", script])
    patch.setattr(node_service, "program", lambda _: sys.executable)


def test_the_service_ends_as_its_supernode_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernode(monkeypatch, ENDING)
    said = Said("never")
    assert NodeService(home, None, None, said).run() == 7
    assert said == ["the SuperNode ended with status 7."]


@pytest.mark.parametrize(
    ("seconds", "side"), [(30.0, "ahead of"), (3600.0, "ahead of"), (-360.0, "behind")]
)
def test_a_wrong_clock_is_said_on_the_device_and_to_the_server(
    server: Proxied, home: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, side: str
) -> None:
    supernode(monkeypatch, ENDING)
    said = Said("never")
    assert NodeService(home, None, None, said, lambda: time.time() + seconds).run() == 1
    (line,) = said
    assert "this machine's clock differs by" in line
    assert f"it is {side} it" in line
    _, report = read_reports(server.site)["edge-0"]
    assert report.note == line[:200]
    assert report.clock_difference == pytest.approx(seconds, abs=2)


def test_a_clock_that_is_set_right_lets_the_device_in_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes wrong while the SuperNode runs, and comes back."""
    supernode(monkeypatch, WAITING)
    shifts = iter([0.0, 0.0, 30.0, 30.0])
    said = Said("right again")
    with pytest.raises(KeyboardInterrupt):
        NodeService(home, None, None, said, lambda: time.time() + next(shifts, 0.0)).run()
    assert len(said) == 2
    assert "clock differs by" in said[0]


def test_a_device_takes_over_the_next_authority_by_itself(
    server: Proxied, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernode(monkeypatch, WAITING)
    begin_rotation(server.site)
    assert unaware(server.site) == ["edge-0"]
    with pytest.raises(KeyboardInterrupt):
        NodeService(home, None, None, Said("renewed, with 2 authorities")).run()
    assert (home / "ca.crt").read_bytes() == (server.site.kit / "server" / "ca.crt").read_bytes()

    supernode(monkeypatch, ENDING)
    NodeService(home, None, None, Said("never"))._report(0.0)
    assert unaware(server.site) == []
    end_rotation(server.site)
    server.wait(lambda: all(found.good for found in check_device(home) if found.what == "server"))


def test_a_server_that_is_away_is_no_reason_to_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernode(monkeypatch, ENDING)
    said = Said("never")
    assert NodeService(home, "127.0.0.1:9", None, said).run() == 1
    assert said == ["127.0.0.1:9: no answer ([Errno 111] Connection refused)."]


def test_the_newest_bundles_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        folder = tmp_path / "apps" / f"fedcmi.fedcmi-flwr.0.1.0.{age}"
        folder.mkdir(parents=True)
        os.utime(folder, (age, age))
    (tmp_path / "apps" / "somebody.else.1").mkdir()
    remove_old_bundles(tmp_path)
    kept = sorted(path.name.rpartition(".")[2] for path in (tmp_path / "apps").glob("fedcmi.*"))
    assert kept == ["2", "3", "4"]
    assert (tmp_path / "apps" / "somebody.else.1").exists()
    remove_old_bundles(tmp_path / "nothing")


def test_a_device_is_looked_at_as_a_whole(server: Proxied, home: Path, tmp_path: Path) -> None:
    """All is well but for the data, which are not there; then what a device's owner gets wrong."""
    found = {finding.what: finding for finding in check_device(home)}
    assert list(found) == ["version", "key", "authority", "server", "clock", "data", "disk"]
    assert [what for what, finding in found.items() if not finding.good] == ["data"]
    assert "dataset.json" in found["data"].text

    (home / "key").chmod(0o644)
    found = {
        finding.what: finding
        for finding in check_device(home, "127.0.0.1:9", lambda: time.time() + 60)
    }
    assert [what for what, finding in found.items() if not finding.good] == [
        "key",
        "server",
        "data",
    ]
    assert "`chmod 600`" in found["key"].text
    (home / "key").chmod(0o600)

    found = {
        finding.what: finding for finding in check_device(home, None, lambda: time.time() + 60)
    }
    assert "ahead of it" in found["clock"].text
