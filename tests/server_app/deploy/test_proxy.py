"""The proxy, started as the kit does it.

What it lets through to the SuperLink, and what it refuses by itself.
"""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sites import Proxied, proxied

from server_app.deploy import renewal
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.proxy import FLEET_CALLS, OPEN_CALLS


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """Return a proxy in front of a stand-in of the SuperLink."""
    with proxied(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.mark.parametrize("call", FLEET_CALLS)
def test_what_a_supernode_calls_arrives(proxy: Proxied, call: str) -> None:
    answer = proxy.client.post(f"/v1/fleet/{call}", content=b"x" * 5_300_000)
    assert answer.text == f"/v1/fleet/{call} 5300000"


def test_the_health_arrives(proxy: Proxied) -> None:
    assert proxy.client.get("/health").text == "/health 0"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/anything",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2fstart-run",
        "/v1/fleet/%252e%252e/control/start-run",
        "//v1/control/start-run",
        "/V1/CONTROL/start-run",
        "/v1/control/start-run?x=/v1/fleet/pull-messages",
        "/fedcmi/metrics",
        "/fedcmi/../metrics",
        *(f"/v1/fleet/{call}" for call in OPEN_CALLS),
    ],
)
def test_everything_else_is_refused(proxy: Proxied, path: str) -> None:
    """Sent raw, since a client of good manners would tidy the path."""
    assert (
        proxy.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        == 403
    )


def test_what_is_refused_is_logged_with_its_sender(proxy: Proxied) -> None:
    """On stderr: under systemd the standard output is a socket, which nginx cannot open."""
    proxy.client.post("/v1/control/start-run")
    refused = [line for line in proxy.log.read_text().splitlines() if "start-run" in line]
    assert "access forbidden by rule, client: 127.0.0.1" in refused[-1]
    assert "/dev/std" not in (proxy.site.state / "nginx.conf").read_text()


def test_a_second_request_hidden_in_the_first_is_seen(proxy: Proxied) -> None:
    hidden = "POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = "POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n"
    lengths = f"Content-Length: {len(hidden)}\r\nTransfer-Encoding: chunked\r\n"
    both = f"{head}{lengths}Connection: close\r\n\r\n0\r\n\r\n{hidden}"
    assert proxy.raw(both) == 400


@pytest.mark.parametrize(
    ("path", "size"),
    [("/v1/fleet/push-object", 2**30), ("/fedcmi/join", 100_000), ("/fedcmi/report", 100_000)],
)
def test_what_is_too_large_is_refused_before_it_is_read(
    proxy: Proxied, path: str, size: int
) -> None:
    assert proxy.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n") == 413


def test_a_new_certificate_is_shown_without_a_restart(proxy: Proxied) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", proxy.port))

    before = shown()
    renewal.renew(proxy.site)
    proxy.wait(lambda: shown() != before)
    assert proxy.client.get("/health").is_success


def test_a_proxy_of_somebody_else_is_said_to_be_one(
    proxy: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: psutil.Process, signal: int) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "send_signal", refuse)
    with pytest.raises(
        DeploymentError, match=r"the certificate is new, .* `sudo systemctl reload fedcmi-proxy`"
    ):
        renewal.renew(proxy.site)


def test_no_encryption_is_no_way_in(proxy: Proxied) -> None:
    assert httpx.get(f"http://127.0.0.1:{proxy.port}/health", trust_env=False).status_code == 400
    with socket.create_connection(("127.0.0.1", proxy.port)) as plain:
        plain.sendall(b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"400" in plain.recv(100)


def test_an_open_deployment_keeps_the_control_api_closed_too(tmp_path: Path) -> None:
    with proxied(tmp_path, secure=False) as open_proxy:
        assert open_proxy.client.post("/v1/control/start-run").status_code == 403
        # Let through; nobody is behind
        assert open_proxy.client.post("/v1/fleet/register-node").status_code == 502
