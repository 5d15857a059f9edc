"""How the SuperLink and the SuperNodes are started, and where their files are: one command each."""

import sys
from pathlib import Path

from server_app.deploy.proxy import INNER

DEVICE_HOME = Path("/etc/fedcmi")
"""Where a device has what the kit made for it."""
DEVICE_STATE = Path("/var/lib/fedcmi")
"""Where a device's service may write."""
DEVICE_PROGRAMS = Path("/opt/fedcmi/.venv/bin")
"""Where a device has this project's environment."""
DATABASE = "superlink.db"
"""Keeps the registrations; without it they end with the SuperLink's process."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}


def programs() -> Path:
    """Return where this machine has Flower's programs: beside its interpreter."""
    return Path(sys.executable).parent


def superlink_command(secure: bool, files: Path, state: Path, address: str) -> list[str]:
    """Return the arguments of ``flower-superlink``.

    Parameters
    ----------
    secure
        TLS and node authentication.
    files
        Directory with the certificates.
    state
        Directory for its database.
    address
        Where it listens, "host:port": on loopback.

    Returns
    -------
    Program and arguments; the program's directory is left out.
    """
    host, _, port = address.rpartition(":")
    command = [
        "flower-superlink",
        "--host",
        host,
        "--port",
        port,
        "--database",
        str(state / DATABASE),
    ]
    command += ["--disable-runtime-dependency-installation"]
    if not secure:
        return [*command, "--insecure"]

    inner = files / INNER
    command += [
        "--ssl-ca-certfile",
        str(inner / "ca.crt"),
        "--ssl-certfile",
        str(inner / "server.crt"),
    ]

    return [*command, "--ssl-keyfile", str(inner / "server.key"), "--enable-supernode-auth"]


def supernode_command(
    secure: bool, config: str, files: Path, address: str, port: int | None = None
) -> list[str]:
    """Return the arguments of ``flower-supernode``.

    Parameters
    ----------
    secure
        TLS and node authentication.
    config
        Its ``--node-config``.
    files
        Directory with its key and the authorities' certificates.
    address
        Where devices reach the server.
    port
        On loopback, for the SuperNode's own helpers; None: Flower's default.

    Returns
    -------
    Program and arguments; the program's directory is left out.
    """
    command = ["flower-supernode", "--superlink", address]
    if port is not None:
        command += ["--port", str(port)]

    if secure:
        command += [
            "--root-certificates",
            str(files / "ca.crt"),
            "--auth-supernode-private-key",
            str(files / "key"),
        ]
    else:
        command += ["--insecure"]

    return [*command, "--node-config", config]


def registrar_command(directory: Path) -> list[str]:
    """Return the arguments of the registrar of a deployment's directory."""
    return ["fedcmi", "deploy", "registrar", str(directory)]


def node_command(home: Path) -> list[str]:
    """Return the arguments of a device's service."""
    return ["fedcmi", "deploy", "node", str(home)]
