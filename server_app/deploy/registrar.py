"""The server's registrar.

Lets devices in by token, gives them certificates and new versions, hears how they are.

It listens on loopback. Devices reach ``/fedcmi/`` through the proxy; ``/metrics`` and
``/health`` only this machine.
"""

import itertools
import json
import re
import sys
import threading
import time
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server_app.deploy import audit, renewal, tokens, upgrade
from server_app.deploy.certificates import is_node_key
from server_app.deploy.deployment import DESCRIPTION, DeploymentError, read_deployment
from server_app.deploy.join import FILES
from server_app.deploy.reports import NODE_HEADER, SIGNATURE_HEADER, keep_report
from server_app.deploy.site import Site
from server_app.deploy.systemd import notify
from server_app.deploy.tokens import TokenError
from server_app.launch.flower_cli import FlowerRunError, is_healthy

LARGEST = 65536
"""Bytes of a request."""
TURN, DAY = 60, 86400
"""Seconds between two signs of life for systemd, and between two looks at the certificates."""
CONNECTION_TIMEOUT = 30.0
"""Seconds that a connection may be silent."""


class Registrar(ThreadingHTTPServer):
    """Answers devices and this machine's monitoring.

    Parameters
    ----------
    site
        What it is the registrar of.
    """

    daemon_threads = True

    def __init__(self, site: Site) -> None:
        host, _, port = site.registrar.rpartition(":")
        super().__init__((host, int(port)), _Handler)
        self._site, self._read, self._joining = site, 0, threading.Lock()

    @property
    def site(self) -> Site:
        """Return the site, with the deployment as it is on the disk now: devices come and go."""
        changed = (self._site.kit / DESCRIPTION).stat().st_mtime_ns
        if changed != self._read:
            self._site, self._read = (
                replace(self._site, deployment=read_deployment(self._site.kit)),
                changed,
            )

        return self._site

    def enrol(self, request: dict[str, Any], peer: str) -> dict[str, str]:
        """Let a device in.

        Parameters
        ----------
        request
            Its name, its token's secret and its public key.
        peer
            Its address.

        Returns
        -------
        File name -> content, for the device.

        Raises
        ------
        TokenError
            It may not come in.
        """
        name, secret, public_key = (request.get(key) for key in ("name", "secret", "public_key"))
        if not (isinstance(name, str) and isinstance(secret, str) and isinstance(public_key, str)):
            raise TokenError("name, secret and public_key are expected.")
        if not is_node_key(public_key):
            raise TokenError("the public key is none of kind ECDSA P-384 in OpenSSH's format.")

        site = self.site
        try:
            node = site.deployment.node(name)
        except DeploymentError as error:
            raise TokenError("no such device.") from error

        with self._joining:
            tokens.redeem(site.state, name, secret, public_key)
            site.register(node, public_key, who=f"device at {peer}")

        folder = site.kit / "nodes" / name

        return {file: (folder / file).read_text(encoding="utf-8") for file in FILES}


class _Handler(BaseHTTPRequestHandler):
    server: Registrar
    protocol_version = "HTTP/1.1"
    timeout = CONNECTION_TIMEOUT

    def do_GET(self) -> None:
        site = self.server.site
        if self.path == "/fedcmi/ca.crt" and site.authority is not None:
            self._answer(HTTPStatus.OK, site.authority.read_bytes())
        elif self.path in ("/fedcmi/upgrade", "/fedcmi/upgrade.whl") and site.deployment.secure:
            self._offer(site)
        elif self.path == "/health":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif self.path == "/metrics":
            from server_app.deploy.exporter import metrics

            self._answer(HTTPStatus.OK, metrics(site).encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"nothing here\n")

    def _offer(self, site: Site) -> None:
        """Say which wheel is offered, or send it."""
        wheel = upgrade.offered(site)
        if wheel is None:
            self._answer(HTTPStatus.NOT_FOUND, b"no other version is offered (`deploy upgrade`).\n")
        elif self.path.endswith(".whl"):
            self._answer(HTTPStatus.OK, wheel.read_bytes())
        else:
            self._answer(HTTPStatus.OK, f"{wheel.name}\n".encode())

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path == "/fedcmi/join":
                files = self.server.enrol(_object(body), self._peer())
                self._answer(HTTPStatus.OK, json.dumps(files).encode())
            elif self.path == "/fedcmi/report":
                name, signature = (
                    self.headers.get(NODE_HEADER, ""),
                    self.headers.get(SIGNATURE_HEADER, ""),
                )
                keep_report(self.server.site, name, signature, body)
                self._answer(HTTPStatus.OK, b"ok\n")
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"nothing here\n")
        except (TokenError, DeploymentError) as refusal:
            if self.path == "/fedcmi/join":
                # Of which the proxy lets few through, so that the log stays short
                audit.note(
                    self.server.site.state,
                    "refused",
                    who=f"device at {self._peer()}",
                    why=str(refusal),
                )

            self._answer(HTTPStatus.FORBIDDEN, f"{refusal}\n".encode())
        except FlowerRunError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())

    def _body(self) -> bytes:
        size = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,5}", size) or int(size) > LARGEST:
            self.close_connection = True  # what was sent is not read, and is no next request
            raise TokenError(f"a request of at most {LARGEST} bytes is expected.")

        return self.rfile.read(int(size))

    def _peer(self) -> str:
        return self.headers.get("X-Real-IP", self.client_address[0])

    def _answer(self, status: HTTPStatus, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401
        if self.path != "/health":
            sys.stdout.write(f"{self._peer()}: {format % args}\n")
            sys.stdout.flush()


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TokenError("JSON is expected.") from error

    if not isinstance(value, dict):
        raise TokenError("a JSON object is expected.")

    return value


def serve(site: Site) -> None:
    """Be the registrar until the process is told to end.

    Parameters
    ----------
    site
        What it is the registrar of.
    """
    with Registrar(site) as server:
        watcher = threading.Thread(target=_watch, args=(server,), daemon=True)
        watcher.start()
        server.serve_forever()


def _watch(server: Registrar) -> None:
    """Tell systemd that the server answers, and the log once a day which certificates end soon."""
    notify("READY=1")
    for turn in itertools.count():
        if turn % (DAY // TURN) == 0:
            for problem in renewal.problems(server.site):
                sys.stdout.write(f"warning: {problem}\n")

            sys.stdout.flush()

        if is_healthy(server.site.registrar, None):
            notify("WATCHDOG=1")

        time.sleep(TURN)
