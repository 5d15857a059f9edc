"""A device's life, over the kit's own proxy and registrar.

Only the SuperLink's list of nodes is a stand-in.
"""

import json
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
from sites import FakeControl, Proxied

from server_app.deploy import audit, life, tokens
from server_app.deploy.certificates import fingerprint, make_node_key, new_authority
from server_app.deploy.deployment import DeploymentError, read_deployment
from server_app.deploy.join import FILES, join
from server_app.deploy.node_settings import read_settings
from server_app.deploy.reports import Report, read_reports, send_form
from server_app.deploy.server_check import UnreachableError
from server_app.deploy.site import Site
from server_app.deploy.status import device_statuses
from server_app.deploy.tokens import Token, TokenError, read_token
from server_app.launch.flower_cli import FlowerRunError

REPORT = Report(0.25, 5e9, "0.1.0", "1.41.0", "0123456789abcdef", "00", "")


def fresh(server: Proxied) -> Site:
    """Return the site with the devices that there are now."""
    return replace(server.site, deployment=read_deployment(server.site.kit))


def test_a_device_joins_and_is_known_by_the_key_that_it_made(
    server: Proxied, tmp_path: Path
) -> None:
    written = join(str(server.site.issue_token("edge-0")), tmp_path / "device")
    assert [path.name for path in written] == ["key", *FILES]
    assert (tmp_path / "device" / "key").stat().st_mode & 0o777 == 0o600
    assert read_settings(tmp_path / "device").name == "edge-0"
    assert server.site.key("edge-0") == (tmp_path / "device" / "key.pub").read_text().strip()
    assert "edge-0" in server.site.registered()
    assert b"PRIVATE KEY" not in b"".join(
        p.read_bytes() for p in server.site.kit.glob("nodes/**/*") if p.is_file()
    )


def test_a_token_is_good_once(server: Proxied, tmp_path: Path) -> None:
    token = str(server.site.issue_token("edge-1"))
    join(token, tmp_path / "first")
    with pytest.raises(
        UnreachableError, match="edge-1: this token has been used, by a device with another key"
    ):
        join(token, tmp_path / "second")
    assert audit.entries(server.site.state)[-1]["what"] == "refused"
    with pytest.raises(TokenError, match="has joined already"):
        join(token, tmp_path / "first")


def test_a_device_whose_answer_was_lost_may_ask_again(server: Proxied, tmp_path: Path) -> None:
    token = str(server.site.issue_token("edge-1"))
    join(token, tmp_path / "device")
    (tmp_path / "device" / "ca.crt").unlink()
    join(token, tmp_path / "device")


def test_a_token_expires(server: Proxied, tmp_path: Path) -> None:
    token = str(server.site.issue_token("edge-2", hours=0.0))
    with pytest.raises(UnreachableError, match="edge-2: this token has expired"):
        join(token, tmp_path / "device")
    assert not (tmp_path / "device" / "ca.crt").exists()


def test_a_newer_token_makes_the_older_void(server: Proxied, tmp_path: Path) -> None:
    older, newer = (str(server.site.issue_token("edge-2")) for _ in range(2))
    with pytest.raises(UnreachableError, match="a newer one has been made"):
        join(older, tmp_path / "device")
    join(newer, tmp_path / "device")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (30.0, "differs by 30 s .* ahead"),
        (3600.0, "differs by 3600 s"),
        (-360.0, "360 s .* behind"),
    ],
)
def test_a_wrong_clock_is_said(server: Proxied, tmp_path: Path, seconds: float, said: str) -> None:
    token = str(server.site.issue_token("edge-3"))
    with pytest.raises(
        UnreachableError,
        match=said.replace("30 s", "(29|30|31) s").replace("3600", "36\\d\\d|35\\d\\d"),
    ):
        join(token, tmp_path / "device", now=lambda: time.time() + seconds)


def test_a_device_tells_its_server_from_somebody_else(server: Proxied, tmp_path: Path) -> None:
    token = read_token(str(server.site.issue_token("edge-3")))
    forged = replace(token, authority=fingerprint(new_authority().text))
    with pytest.raises(UnreachableError, match="is not the server that made the token"):
        join(str(forged), tmp_path / "device")


@pytest.mark.parametrize("text", ["", "nonsense", "e30", str(Token("a", "b", "c", "d"))[:-9]])
def test_what_is_no_token_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"copy it whole|not a token"):
        join(text, tmp_path / "device")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON is expected"),
        (b"[]", "a JSON object is expected"),
        (b"[" * 60_000, "JSON is expected"),
        (b"\xff\x00", "JSON is expected"),
        (b"1" * 60_000, "JSON is expected"),
        (b'{"name": "edge-3", "secret": "\\ud800", "public_key": "\\ud800"}', "none of kind ECDSA"),
        (b"{}", "name, secret and public_key are expected"),
        (
            json.dumps({"name": "edge-3", "secret": "x", "public_key": "ssh-rsa AAAA"}).encode(),
            "none of kind ECDSA",
        ),
    ],
)
def test_a_request_that_is_none_is_refused(server: Proxied, body: bytes, said: str) -> None:
    answer = server.client.post("/fedcmi/join", content=body)
    assert (answer.status_code, said in answer.text) == (403, True)


def test_a_secret_may_be_any_text(server: Proxied, tmp_path: Path) -> None:
    request = {"name": "edge-3", "secret": "\ud800", "public_key": make_node_key(tmp_path, "x")}
    answer = server.client.post("/fedcmi/join", content=json.dumps(request))
    assert (answer.status_code, "this token is not known" in answer.text) == (403, True)


@pytest.mark.parametrize("size", ["-1", "1e3", "\u00b2", "99999", "123456789"])
def test_a_size_that_is_none_is_refused(server: Proxied, size: str) -> None:
    """At the registrar itself, behind the proxy."""
    host, _, port = server.site.registrar.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as channel:
        channel.sendall(
            f"POST /fedcmi/join HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode(
                "latin-1"
            )
        )
        assert channel.recv(100).startswith(b"HTTP/1.1 403 ")


def test_refused_reports_do_not_fill_the_audit_log(server: Proxied) -> None:
    before = (server.site.state / audit.FILE).stat().st_size
    assert server.client.post("/fedcmi/report", content=b"{}").status_code == 403
    assert (server.site.state / audit.FILE).stat().st_size == before


@pytest.mark.parametrize("name", ["edge-99", "../edge-3", "superlink", ""])
def test_only_devices_of_the_deployment_join(server: Proxied, tmp_path: Path, name: str) -> None:
    key = make_node_key(tmp_path, "x")
    answer = server.client.post(
        "/fedcmi/join", json={"name": name, "secret": "x", "public_key": key}
    )
    assert (answer.status_code, answer.text) == (403, "no such device.\n")


def test_a_revoked_device_comes_back_by_no_key_and_no_token(
    server: Proxied, tmp_path: Path
) -> None:
    site = fresh(server)
    join(str(site.issue_token("edge-4")), tmp_path / "device")
    waiting = str(site.issue_token("edge-4"))
    life.revoke(site, "edge-4")
    site = fresh(server)
    assert "edge-4" not in site.registered()
    with pytest.raises(UnreachableError, match="this token is not known"):
        join(waiting, tmp_path / "fresh")
    with pytest.raises(DeploymentError, match="edge-4: revoked"):
        site.issue_token("edge-4")
    with pytest.raises(DeploymentError, match="edge-4: revoked"):
        site.register(site.deployment.node("edge-4"), make_node_key(tmp_path, "x"))
    assert "edge-4" not in [status.name for status in device_statuses(site, True)]


def test_a_revocation_that_the_superlink_did_not_hear_of_is_made_up_for(
    server: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(str(fresh(server).issue_token("edge-3")), tmp_path / "device")
    monkeypatch.setattr(FakeControl, "away", True)
    with pytest.raises(FlowerRunError, match="does not answer"):
        life.revoke(fresh(server), "edge-3")
    with pytest.raises(DeploymentError, match="edge-3: revoked"):
        fresh(server).issue_token("edge-3")
    monkeypatch.setattr(FakeControl, "away", False)
    assert "edge-3" in fresh(server).registered()
    life.revoke(fresh(server), "edge-3")
    assert "edge-3" not in fresh(server).registered()


def test_another_device_takes_the_place_of_one(server: Proxied, tmp_path: Path) -> None:
    site = fresh(server)
    join(str(site.issue_token("edge-5")), tmp_path / "old")
    life.exchange(site, "edge-5")
    assert "edge-5" not in fresh(server).registered()
    join(str(fresh(server).issue_token("edge-5")), tmp_path / "new")
    assert site.key("edge-5") == (tmp_path / "new" / "key.pub").read_text().strip()
    assert fresh(server).deployment.node("edge-5").partition_id == 5


def test_a_device_is_added_with_a_number_that_nobody_has_had(
    server: Proxied, tmp_path: Path
) -> None:
    site = fresh(server)
    before = len(site.deployment.nodes)
    added = life.add(site, "late", ["audio", "visual"], "/data/late", "cpu")
    assert added.partition_id == before
    join(str(fresh(server).issue_token("late")), tmp_path / "device")
    assert 'modalities="audio+visual"' in read_settings(tmp_path / "device").config
    with pytest.raises(DeploymentError, match="there is or was a device of that name"):
        life.add(fresh(server), "edge-4", ["audio"], "/data")


def test_a_report_counts_with_the_device_s_signature_only(server: Proxied, tmp_path: Path) -> None:
    site = fresh(server)
    join(str(site.issue_token("edge-6")), tmp_path / "device")
    body, headers = send_form(REPORT, "edge-6", tmp_path / "device" / "key")
    assert server.client.post("/fedcmi/report", content=body, headers=headers).is_success
    assert read_reports(site)["edge-6"][1] == REPORT
    forged = body.replace(b"0.25", b"9.25")
    assert server.client.post("/fedcmi/report", content=forged, headers=headers).status_code == 403
    other = headers | {"X-FedCMI-Node": "edge-0"}
    assert server.client.post("/fedcmi/report", content=body, headers=other).status_code == 403
    (status,) = [status for status in device_statuses(site, True) if status.name == "edge-6"]
    assert (status.registered, status.online, status.version, status.clock_difference) == (
        True,
        True,
        "0.1.0",
        0.25,
    )


@pytest.mark.parametrize(
    "change",
    [{"note": "\x1b[31m"}, {"note": "x" * 201}, {"disk_free": "much"}, {"clock_difference": 1e999}],
)
def test_a_signed_report_may_still_be_none(
    server: Proxied, tmp_path: Path, change: dict[str, object]
) -> None:
    join(str(fresh(server).issue_token("edge-7")), tmp_path / "device")
    report = Report(**{**asdict(REPORT), **change})  # type: ignore[arg-type]
    body, headers = send_form(report, "edge-7", tmp_path / "device" / "key")
    answer = server.client.post("/fedcmi/report", content=body, headers=headers)
    assert (answer.status_code, "or is none" in answer.text) == (403, True)


def test_metrics_are_there_for_this_machine_alone(server: Proxied) -> None:
    text = httpx.get(f"http://{server.site.registrar}/metrics", trust_env=False).text
    assert "fedcmi_superlink_up 1\n" in text
    assert 'fedcmi_certificate_days{file="server.pem"} 82' in text
    assert server.client.get("/metrics").status_code == 403


def test_the_audit_log_says_who_did_what_and_holds_no_secret(server: Proxied) -> None:
    found = audit.entries(server.site.state)
    assert {"init", "token", "register", "revoke", "replace", "add"} <= {
        entry["what"] for entry in found
    }
    assert all(entry["when"] and entry["who"] for entry in found)
    registered = [entry for entry in found if entry["what"] == "register"]
    assert registered[0]["who"] == "device at 127.0.0.1"
    kept = (server.site.state / audit.FILE).read_text() + (
        server.site.state / tokens.FILE
    ).read_text()
    assert str(server.site.issue_token("edge-0").secret) not in kept
