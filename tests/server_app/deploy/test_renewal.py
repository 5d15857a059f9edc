"""Certificates over the years.

Reported in time, renewed, their authority exchanged, and no device lost.
"""

import json
import ssl
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from sites import make_site
from typer.testing import CliRunner

from server_app.commands.main import app
from server_app.deploy import renewal
from server_app.deploy.certificates import (
    AUTHORITY_DAYS,
    CertificateError,
    fingerprint,
    make_node_key,
    new_authority,
    read_certificates,
    server_certificate,
)
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.reports import FOLDER, Report
from server_app.deploy.server_check import UnreachableError, ask, certificate_problem
from server_app.deploy.site import Site

DAY = timedelta(days=1)


class SimulatedDevice:
    """A device that asks for the authorities once a day, as its service does, when it is online."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.trusted = self._served()
        site.key_file(name).parent.mkdir(exist_ok=True)
        site.key_file(name).write_text(make_node_key(site.kit / "nodes" / name, name) + "\n")

    def day(self, now: datetime) -> None:
        """Check the server's certificate as TLS does, take over the authorities, report."""
        leaf = read_certificates(self.site.kit / "server" / "server.pem")[0]
        store = Store(x509.load_pem_x509_certificates(self.trusted))
        subject = x509.IPAddress(ip_address("127.0.0.1"))
        PolicyBuilder().store(store).time(now.replace(tzinfo=None)).build_server_verifier(
            subject
        ).verify(leaf, [])
        self.trusted = self._served()
        report = Report(0.0, 1e9, "0.1.0", "1.41.0", "", fingerprint(self.trusted), "")
        folder = self.site.state / FOLDER
        folder.mkdir(exist_ok=True)
        (folder / f"{self.name}.json").write_text(
            json.dumps({"received": now.timestamp(), **asdict(report)})
        )

    def _served(self) -> bytes:
        return (self.site.kit / "server" / "ca.crt").read_bytes()


def test_years_go_by_and_no_device_is_lost(tmp_path: Path) -> None:
    """An operator who does what the warnings say, on the day that they first say it."""
    site = make_site(tmp_path)
    devices = [SimulatedDevice(site, node.name) for node in site.deployment.nodes]
    now, done = datetime.now(UTC), []
    for _ in range(0, AUTHORITY_DAYS + 365, 15):
        now += 15 * DAY
        warnings = renewal.problems(site, now)
        if any(
            warning.startswith("server.pem: the certificate expires in ") for warning in warnings
        ):
            renewal.renew(site, now=now)
            done.append("renew")
        if (
            any(warning.startswith("ca.crt") for warning in warnings)
            and not (site.kit / "server" / renewal.NEXT_KEY).exists()
        ):
            renewal.begin_rotation(site, now)
            done.append("new authority")
        elif (site.kit / "server" / renewal.NEXT_KEY).exists():
            renewal.end_rotation(site, now=now)
            done.append("switch authority")
        for device in devices:
            device.day(now)
        assert "expired" not in "".join(renewal.problems(site, now))
    assert done.count("renew") >= 4
    assert done.count("switch authority") == 1


def test_an_unrenewed_certificate_loses_the_devices(tmp_path: Path) -> None:
    """The simulated device notices what it is there to notice."""
    site = make_site(tmp_path)
    device = SimulatedDevice(site, "edge-0")
    with pytest.raises(VerificationError):
        device.day(datetime.now(UTC) + 900 * DAY)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-2, "is valid from"),
        (0, None),
        (793, None),
        (795, "expires in 29 days"),
        (900, "has expired, on"),
    ],
)
def test_a_certificate_is_reported_thirty_days_before_its_end(days: int, said: str | None) -> None:
    now = datetime.now(UTC)
    (certificate,) = x509.load_pem_x509_certificates(
        server_certificate(new_authority(), ["a"], now=now)
    )
    problem = certificate_problem(certificate, now + days * DAY)
    assert (problem is None) if said is None else (said in str(problem))


def test_the_authority_is_not_switched_while_a_device_does_not_know_the_next(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path)
    devices = [SimulatedDevice(site, node.name) for node in site.deployment.nodes]
    with pytest.raises(DeploymentError, match="there is no next authority"):
        renewal.end_rotation(site)
    renewal.begin_rotation(site)
    devices[0].day(datetime.now(UTC))
    with pytest.raises(DeploymentError, match=r"^edge-1: has not said yet"):
        renewal.end_rotation(site)
    with pytest.raises(DeploymentError, match="there is a next authority"):
        renewal.begin_rotation(site)
    renewal.end_rotation(site, force=True)
    assert len(read_certificates(site.kit / "nodes" / "edge-0" / "ca.crt")) == 1


def test_a_key_kept_off_the_network_renews(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    key = (site.kit / "server" / "ca.key").rename(tmp_path / "elsewhere.key")
    done = CliRunner().invoke(app, ["deploy", "renew", str(site.kit)])
    assert (done.exit_code, "ca.key" in done.output) == (1, True)
    before = (site.kit / "server" / "server.pem").read_bytes()
    done = CliRunner().invoke(app, ["deploy", "renew", str(site.kit), "--authority-key", str(key)])
    assert done.exit_code == 0, done.output
    assert (site.kit / "server" / "server.pem").read_bytes() != before
    assert (site.kit / "server" / "server.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", new_authority().key_text], ids=["empty", "nonsense", "another"]
)
def test_a_wrong_key_changes_nothing(tmp_path: Path, content: bytes) -> None:
    site = make_site(tmp_path)
    (tmp_path / "wrong.key").write_bytes(content)
    before = (site.kit / "server" / "server.pem").read_bytes()
    with pytest.raises(CertificateError, match=r"wrong\.key"):
        renewal.renew(site, tmp_path / "wrong.key")
    assert (site.kit / "server" / "server.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("shift", "said"),
    [(-900, "has expired, on "), (900, "this machine's clock may be behind")],
    ids=["expired", "early"],
)
def test_a_server_with_a_certificate_out_of_its_time_is_said_to_have_one(
    tmp_path: Path, shift: int, said: str
) -> None:
    authority = new_authority(datetime.now(UTC) - 1000 * DAY)
    pem = server_certificate(authority, ["127.0.0.1"], now=datetime.now(UTC) + shift * DAY)
    (tmp_path / "ca.crt").write_bytes(authority.text)
    (tmp_path / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UnreachableError, match=said):
            ask(f"127.0.0.1:{server.server_port}", "/health", tmp_path / "ca.crt")
        server.shutdown()
