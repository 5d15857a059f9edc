"""Containers: the same commands as the units, without root, without capabilities, on a read-only file system."""

import shlex
from collections.abc import Sequence

from server_app.deploy.services import DEVICE_STATE, QUIET

USER = 10001
"""Number of the user in the image; what is mounted has to be readable for it."""


def containerfile(role: str, command: Sequence[str], mounts: Sequence[str], health: str) -> str:
    """Return a Containerfile; keys and data are mounted, never copied into the image.

    Parameters
    ----------
    role
        What runs in it.
    command
        Program and arguments, with paths inside the container.
    mounts
        What the container sees of the machine, as ``-v`` takes it.
    health
        Shell command that succeeds while the service is well.

    Returns
    -------
    The file's text.
    """
    volumes = [f"fedcmi-state:{DEVICE_STATE}", *mounts]
    options = ["--read-only", "--tmpfs", "/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"]
    options += [option for volume in volumes for option in ("-v", volume)]
    quoted = ", ".join('"' + argument.replace('"', '\\"') + '"' for argument in command)
    return f"""# {role}. Build from the directory with the project's wheel (`make wheel` leaves it in dist),
# on a machine of the same kind (x86-64, ARM64):
#     podman build -t fedcmi -f THIS_FILE dist
#     podman run -d --restart=always --network=host {shlex.join(options)} fedcmi
FROM python:3.11-slim
RUN useradd --uid {USER} --home-dir {DEVICE_STATE} --create-home fedcmi
WORKDIR /opt/fedcmi
COPY fedcmi_flwr-*.whl ./
RUN pip install --no-cache-dir "$(ls fedcmi_flwr-*.whl)[all]"
ENV {" ".join(f"{name}={value}" for name, value in QUIET.items())} FLWR_HOME={DEVICE_STATE}
VOLUME {DEVICE_STATE}
USER {USER}
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s CMD {health}
CMD [{quoted}]
"""
