"""How the SuperLink and the SuperNodes are started: one command each, alone, in a systemd unit and in a container."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from server_app.deploy.deployment import Deployment, Device

DEVICE_HOME = Path("/etc/fedcmi")
"""Where a device has what the kit made for it."""
DEVICE_STATE = Path("/var/lib/fedcmi")
"""Where a device's service may write."""
DEVICE_PROGRAMS = Path("/opt/fedcmi/.venv/bin")
"""Where a device has this project's environment."""
CONTAINER_SERVER = Path("/etc/fedcmi")
"""Where a server in a container sees its files."""
DATABASE = "superlink.db"
"""Keeps the registrations; without it they end with the SuperLink's process."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}


def programs() -> Path:
    """Return where this machine has Flower's programs: beside its interpreter."""
    return Path(sys.executable).parent


def superlink_command(deployment: Deployment, files: Path, state: Path, host: str, port: int) -> list[str]:
    """Return the arguments of ``flower-superlink``.

    Parameters
    ----------
    deployment
        The deployment.
    files
        Directory with its certificate and key.
    state
        Directory for its database.
    host
        Where it listens.
    port
        Its only one.

    Returns
    -------
    Program and arguments; the program's directory is left out.
    """
    command = ["flower-superlink", "--host", host, "--port", str(port), "--database", str(state / DATABASE)]
    command += ["--disable-runtime-dependency-installation"]
    if not deployment.secure:
        return [*command, "--insecure"]
    command += ["--ssl-ca-certfile", str(files / "ca.crt"), "--ssl-certfile", str(files / "server.crt")]
    return [*command, "--ssl-keyfile", str(files / "server.key"), "--enable-supernode-auth"]


def supernode_command(
    deployment: Deployment, node: Device, files: Path, address: str, port: int | None = None
) -> list[str]:
    """Return the arguments of ``flower-supernode``.

    Parameters
    ----------
    deployment
        The deployment.
    node
        The device.
    files
        Directory with its key and the authority's certificate.
    address
        Of the SuperLink.
    port
        On loopback, for the SuperNode's own helpers; None: Flower's default.

    Returns
    -------
    Program and arguments; the program's directory is left out.
    """
    command = ["flower-supernode", "--superlink", address]
    if port is not None:
        command += ["--port", str(port)]
    if deployment.secure:
        command += ["--root-certificates", str(files / "ca.crt"), "--auth-supernode-private-key", str(files / "key")]
    else:
        command += ["--insecure"]
    return [*command, "--node-config", node.config]


def systemd_unit(
    description: str, user: str, bin_directory: Path, environment: Mapping[str, str], command: Sequence[str]
) -> str:
    """Return a unit that starts with the machine and again after a crash.

    Parameters
    ----------
    description
        For ``systemctl status``.
    user
        Whom the service runs as.
    bin_directory
        Where its programs are.
    environment
        More variables than it always has.
    command
        Program and arguments.

    Returns
    -------
    The unit's text.
    """
    variables = {"PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin", **QUIET, **environment}
    lines = "\n".join(f'Environment="{name}={value}"' for name, value in variables.items())
    return f"""[Unit]
Description={description}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User={user}
{lines}
ExecStart={shlex.join([str(bin_directory / command[0]), *command[1:]])}
Restart=always
RestartSec=10
StateDirectory=fedcmi
NoNewPrivileges=true
PrivateTmp=true

[Install]
WantedBy=multi-user.target
"""


def containerfile(role: str, command: Sequence[str], mounts: Sequence[str], port: int | None = None) -> str:
    """Return a Containerfile; keys and data are mounted, never copied into the image.

    Parameters
    ----------
    role
        What runs in it.
    command
        Program and arguments, with paths inside the container.
    mounts
        What the container sees of the machine, as ``-v`` takes it.
    port
        What it publishes; None: nothing.

    Returns
    -------
    The file's text.
    """
    volumes = [f"fedcmi-state:{DEVICE_STATE}", *mounts]
    options = [option for volume in volumes for option in ("-v", volume)]
    options += [] if port is None else ["-p", f"{port}:{port}"]
    quoted = ", ".join('"' + argument.replace('"', '\\"') + '"' for argument in command)
    return f"""# {role}. Build from the directory with the project's wheel (`make wheel` leaves it in dist),
# on a machine of the same kind (x86-64, ARM64):
#     podman build -t fedcmi -f THIS_FILE dist
#     podman run -d --restart=always {shlex.join(options)} fedcmi
FROM python:3.11-slim
WORKDIR /opt/fedcmi
COPY fedcmi_flwr-*.whl ./
RUN pip install --no-cache-dir "$(ls fedcmi_flwr-*.whl)[all]"
ENV {" ".join(f"{name}={value}" for name, value in QUIET.items())} FLWR_HOME={DEVICE_STATE}
VOLUME {DEVICE_STATE}
CMD [{quoted}]
"""
