"""What an operator sees of a deployment.

Its status, its metrics, its certificates, and its back-up.
"""

import json
import re
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sites import FakeControl, make_site

from server_app.commands.deploy_status import status_notes, status_table
from server_app.deploy import audit, services
from server_app.deploy.backup import back_up
from server_app.deploy.certificates import make_node_key
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.exporter import Sample, exposition, metrics, reason_of, round_samples
from server_app.deploy.monitoring import ALERTS, PANELS
from server_app.deploy.overview import other_versions
from server_app.deploy.reports import FOLDER
from server_app.deploy.site import Site
from server_app.deploy.status import Status, device_statuses, last_refusal

REFUSED = {
    "No reply of edge-1 (partition 1, audio). The round's time is over.": "missing",
    "No evaluation of edge-1 (partition 1, audio). The round's time is over.": "missing",
    "Reply of edge-1 (partition 1, audio) refused: error 2: OSError: disk is full": "error",
    "Reply of edge-1 (partition 1, audio) refused: layout of group 'x' is not a list": "layout",
    "Reply of edge-norm (partition 1, audio) refused: it has 1 bytes": "other",
    "Reply of edge-1 (partition 1, audio) refused: the norm of its update is 1e6 times the median": "norm",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a site with two devices, of which edge-0 is registered."""
    FakeControl.install(monkeypatch)
    site = make_site(tmp_path)
    site.register(
        site.deployment.node("edge-0"), make_node_key(site.kit / "nodes" / "edge-0", "edge-0")
    )
    return site


def ran(site: Site, *records: dict[str, Any]) -> None:
    """Leave a run with these rounds behind."""
    run_dir = site.kit / "runs" / "a"
    run_dir.mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run_dir / "metrics.jsonl").write_text(lines + '{"round": 99, "tor', encoding="utf-8")
    audit.note(site.state, "run", run_dir=str(run_dir), resume=False)


def round_of(number: int, refused: list[str]) -> dict[str, Any]:
    """Return the parts of a round's record that are looked at."""
    return {
        "round": number,
        "seconds": 2.5,
        "accuracy": {"fused": 0.75, "audio only": None},
        "owners": {"audio": [0], "shared": [0, 1]},
        "refused": refused,
        "failed": None,
        "bytes_down": {"0": 10, "1": 20},
        "bytes_up": {"0": 5},
    }


def test_status_knows_who_is_there_and_why_a_reply_was_refused(site: Site) -> None:
    lines = list(REFUSED)
    ran(site, round_of(1, lines[:1]), round_of(2, [lines[2]]), round_of(3, []))
    first, second = device_statuses(site, up=True)
    assert (first.name, first.registered, first.online, first.refusal) == (
        "edge-0",
        True,
        True,
        None,
    )
    assert (second.registered, second.online, second.seen) == (False, False, None)
    assert second.refusal == f"round 2: {lines[2]}"


def test_a_refusal_is_that_of_the_device_alone(site: Site) -> None:
    records = [{"round": 1, "refused": ["Reply of edge-10 (partition 10, audio) refused: x"]}]
    assert last_refusal(records, site.deployment.node("edge-1")) is None


def test_what_others_wrote_is_shown_and_never_obeyed() -> None:
    """A log that ends with what looks like markup, or moves the cursor."""
    found = [
        Status("edge-0", note="[/path] \x1b[31m", refusal="[bold]x"),
        Status("[/name]", data="[red]"),
    ]
    console = Console(width=200, record=True)
    console.print(status_table(found))
    assert "[/name]" in console.export_text()
    assert status_notes(found) == ["edge-0: [/path] ?[31m", "edge-0: [bold]x"]


def test_a_device_of_another_version_is_named() -> None:
    (line,) = other_versions([Status("edge-0", version="0.0.1"), Status("edge-1"), Status("proxy")])
    assert line.startswith("edge-0 runs version 0.0.1, the server ")


@pytest.mark.parametrize(("line", "reason"), REFUSED.items())
def test_refusals_are_counted_by_reason(line: str, reason: str) -> None:
    assert reason_of(line) == reason
    (counted,) = [
        s.value
        for s in round_samples([round_of(1, [line, line])])
        if s.labels == {"reason": reason}
    ]
    assert counted == 2


def test_metrics_are_those_of_the_dashboard_and_the_alerts(site: Site) -> None:
    ran(site, round_of(1, []), round_of(2, []))
    report = {
        "clock_difference": 0.5,
        "disk_free": 5e9,
        "version": "0.1.0",
        "flower": "",
        "data": "",
        "authority": "",
    }
    (site.state / FOLDER).mkdir()
    (site.state / FOLDER / "edge-0.json").write_text(
        json.dumps({"received": 1.0, "note": "", **report})
    )
    text = metrics(site)
    assert "fedcmi_round 2\n" in text
    assert 'fedcmi_accuracy{prediction="fused"} 0.75\n' in text
    assert 'fedcmi_round_bytes{direction="down"} 30\n' in text
    assert "fedcmi_replies 2\n" in text
    assert "audio only" not in text  # it has no number
    for _, expression, *_ in (*ALERTS, *PANELS):
        for name in re.findall("fedcmi_[a-z_]+", expression):
            assert f"# TYPE {name} " in text


def test_labels_cannot_break_a_line() -> None:
    text = exposition([Sample("x", 1.0, {"name": 'a"b\\c\nd'}), Sample("y", float("nan"), {})])
    assert text == '# TYPE x gauge\nx{name="a\\"b\\\\c\\nd"} 1\n'


def test_a_back_up_has_all_that_the_server_needs(site: Site, tmp_path: Path) -> None:
    with sqlite3.connect(site.state / services.DATABASE) as database:
        database.execute("create table node (id)")
        database.execute("insert into node values (7)")
    (site.kit / "rehearsal").mkdir()
    (site.kit / "rehearsal" / "secret").touch()

    file = tmp_path / "backup.tar.gz"
    back_up(site, file)
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "moved", filter="data")
    moved = tmp_path / "moved" / site.kit.name
    for name in (
        "deployment.json",
        "server/ca.key",
        "server/server.pem",
        "server/keys/edge-0.pub",
        "nodes/edge-1",
    ):
        assert (moved / name).exists()
    assert not (moved / "rehearsal").exists()
    with sqlite3.connect(moved / "server" / services.DATABASE) as database:
        assert database.execute("select id from node").fetchall() == [(7,)]
    with pytest.raises(DeploymentError, match="exists already"):
        back_up(site, file)
