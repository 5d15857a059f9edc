"""Sites of a deployment for tests.

A kit on free ports, a SuperLink that is a list, and the kit's own proxy.
"""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from server_app.deploy.control import RegisteredNode, pem
from server_app.deploy.deployment import Deployment, Device
from server_app.deploy.kit import write_kit
from server_app.deploy.proxy import (
    CONFIGURATION,
    INNER,
    nginx_command,
    nginx_configuration,
    nginx_program,
)
from server_app.deploy.site import Site
from server_app.launch.flower_cli import FlowerRunError, free_port

PATIENCE = 30.0
"""Seconds."""
SYSTEM = "/usr/sbin"
"""Not on everybody's path."""


def require(program: str, package: str) -> None:
    """Skip a test that needs a program which this machine lacks.

    Fail it where all tests have to run.
    """
    if shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM}") is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"{program} is not installed: apt-get install {package}")


def make_site(root: Path, secure: bool = True, nodes: int = 2) -> Site:
    """Return a site with devices "edge-0", "edge-1", ...; nothing of it runs."""
    devices = tuple(Device(f"edge-{place}", place, ("audio",), "/data") for place in range(nodes))
    port, superlink, registrar = free_port(), free_port(), free_port()
    deployment = Deployment("127.0.0.1", port, "/srv/data", (), secure, devices)
    write_kit(root / "kit", deployment)
    places = (f"127.0.0.1:{number}" for number in (port, superlink, registrar))
    return Site(deployment, root / "kit", root / "kit" / "server", *places)


class FakeControl:
    """A SuperLink's Control API that keeps its nodes in memory; there is one for each address."""

    known: dict[str, dict[int, str]]
    used: set[str]
    away = False
    """The SuperLink does not answer."""

    def __init__(self, address: str, authority: Path | None) -> None:
        self._nodes = self.known.setdefault(address, {})

    @classmethod
    def install(cls, patch: pytest.MonkeyPatch) -> None:
        """Take the place of the real one."""
        cls.known, cls.used = {}, set()
        patch.setattr("server_app.deploy.control.Control", cls)

    def nodes(self) -> list[RegisteredNode]:
        """Return all, online."""
        if self.away:
            raise FlowerRunError("the SuperLink does not answer")
        return [
            RegisteredNode(number, key, True, time.time()) for number, key in self._nodes.items()
        ]

    def register(self, public_key: str, name: str) -> int:
        """Take each key once, as the real one."""
        if pem(public_key) in self.used:
            raise FlowerRunError("public key already in use")
        self.used.add(pem(public_key))
        self._nodes[len(self.used)] = pem(public_key)
        return len(self.used)

    def unregister(self, node_id: int) -> None:
        """Forget a node."""
        del self._nodes[node_id]


class SuperLink(BaseHTTPRequestHandler):
    """Says which path it was asked for, and how much it got."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Answer any request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.path} {len(body)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = answer  # noqa: N815 (as http.server has it)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@dataclass(frozen=True)
class Proxied:
    """A site whose proxy runs."""

    site: Site
    client: httpx.Client
    log: Path

    @property
    def port(self) -> int:
        """Return where it listens."""
        return self.site.deployment.port

    def raw(self, request: str) -> int:
        """Send bytes as they are, and return the status of the first answer."""
        context = ssl.create_default_context(cafile=self.site.authority)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as channel,
        ):
            channel.sendall(request.encode())
            return int(channel.recv(100).split()[1])

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Wait for something, with a bound."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def proxied(root: Path, secure: bool = True, nodes: int = 2) -> Iterator[Proxied]:
    """Start a site's proxy as its unit does, with security before a stand-in of the SuperLink.

    Both stop at the end.
    """
    require("nginx", "nginx-light")
    site = make_site(root, secure, nodes)
    places = (site.state, site.state, site.address, site.superlink, site.registrar)
    text = nginx_configuration(
        site.deployment, *places, workers="root" if os.geteuid() == 0 else ""
    )
    (site.state / CONFIGURATION).write_text(text, encoding="utf-8")
    log = root / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [nginx_program(), *nginx_command(site.state)[1:]], stdout=output, stderr=output
        )
    trust = ssl.create_default_context(cafile=site.authority) if secure else True
    scheme = "https" if secure else "http"
    try:
        with (
            httpx.Client(
                base_url=f"{scheme}://{site.address}", verify=trust, trust_env=False
            ) as client,
            _stand_in(site) if secure else nullcontext(),
        ):
            started = Proxied(site, client, log)
            started.wait(lambda: _listens(started.port) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield started
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def _stand_in(site: Site) -> Iterator[None]:
    host, _, port = site.superlink.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner = site.kit / "server" / INNER
    context.load_cert_chain(inner / "server.crt", inner / "server.key")
    with ThreadingHTTPServer((host, int(port)), SuperLink) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
