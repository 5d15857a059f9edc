"""Containers: the same commands as the units, without root, without capabilities, on a read-only
file system.
"""

import shlex
from collections.abc import Sequence

from server_app.deploy.services import DEVICE_STATE, QUIET

USER = 10001
"""Number of the user where ``--user`` is left out: one that owns nothing."""


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
    options = [
        "--restart=always",
        "--network=host",
        "--read-only",
        "--tmpfs=/tmp",
        f"--tmpfs={DEVICE_STATE}",
    ]
    options += [
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        *(f"--volume={mount}" for mount in mounts),
    ]
    quoted = ", ".join('"' + argument.replace('"', '\\"') + '"' for argument in command)

    return f"""# {role}. Build from the directory with the project's wheel (`make wheel` leaves it in dist),
# on a machine of the same kind (x86-64, ARM64), and run it as the user to whom the keys belong:
#     podman build -t fedcmi -f THIS_FILE dist
#     podman run -d --user "$(id -u fedcmi):$(id -g fedcmi)" {shlex.join(options)} fedcmi
FROM python:3.11-slim
WORKDIR /opt/fedcmi
COPY fedcmi_flwr-*.whl ./
RUN pip install --no-cache-dir "$(ls fedcmi_flwr-*.whl)[all]"
ENV {" ".join(f"{name}={value}" for name, value in QUIET.items())} FLWR_HOME={DEVICE_STATE}
USER {USER}
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s CMD {health}
CMD [{quoted}]
"""
