"""Containers: the same commands as the units, without root, without capabilities, on a read-only
file system.
"""

import json
import shlex

from server_app.deploy import services
from server_app.deploy.deployment import Device

USER = 10001
"""Number of the user where ``--user`` is left out: one that owns nothing."""


def containerfile(node: Device) -> str:
    """Return a device's Containerfile; keys and data are mounted, never copied into the image.

    Parameters
    ----------
    node
        The device.

    Returns
    -------
    The file's text.
    """
    home, state = services.DEVICE_HOME, services.DEVICE_STATE
    mounts = [f"{path}:{path}" for path in (home, *node.written)]
    mounts += [f"{path}:{path}:ro" for path in node.read]
    options = ["--restart=always", "--network=host", "--read-only", "--tmpfs=/tmp"]
    options += [f"--tmpfs={state}", "--cap-drop=all", "--security-opt=no-new-privileges"]
    options += [f"--volume={mount}" for mount in mounts]
    health = " ".join(health_command())

    return f"""# SuperNode {node.name}. Build from the directory with the project's wheel (`make wheel` leaves it in
# dist), on a machine of the same kind (x86-64, ARM64), and run it as the user to whom the keys belong:
#     podman build -t fedcmi -f THIS_FILE dist
#     podman run -d --user "$(id -u fedcmi):$(id -g fedcmi)" {shlex.join(options)} fedcmi
{image_steps()}ENV FLWR_HOME={state}
USER {USER}
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s CMD {health}
CMD {json.dumps(services.node_command(home))}
"""


def health_command() -> list[str]:
    """Return the arguments of what succeeds while a device is well."""
    return ["fedcmi", "deploy", "check", str(services.DEVICE_HOME)]


def image_steps(before: str = "") -> str:
    """Return how an image of this project is made, up to whom it runs as.

    Parameters
    ----------
    before
        Shell command for what else it needs.

    Returns
    -------
    Lines of a Containerfile.
    """
    first = f"RUN {before}\n" if before else ""
    variables = " ".join(f"{name}={value}" for name, value in services.QUIET.items())

    return f"""FROM python:3.11-slim
{first}WORKDIR /opt/fedcmi
COPY fedcmi_flwr-*.whl ./
RUN pip install --no-cache-dir "$(ls fedcmi_flwr-*.whl)[all]"
ENV {variables}
"""
