"""Writes a deployment's directory.

Certificates, services, the run's keys, and guides for server and devices.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import new_directory
from server_app.deploy import audit, guide, monitoring
from server_app.deploy.certificates import (
    INNER_DAYS,
    LOOPBACK,
    new_authority,
    server_certificate,
    write_private,
)
from server_app.deploy.compose import write_compose
from server_app.deploy.containers import containerfile
from server_app.deploy.deployment import Deployment, DeploymentError, Device, write_deployment
from server_app.deploy.node_settings import SETTINGS, NodeSettings
from server_app.deploy.proxy import CERTIFICATE, CONFIGURATION, INNER, nginx_configuration
from server_app.deploy.service_units import (
    NODE_UNIT,
    REGISTRAR_ADDRESS,
    SUPERLINK_ADDRESS,
    node_unit,
    server_units,
)
from server_app.deploy.units import systemd_unit
from server_app.launch.flower_cli import connection_file


def write_kit(directory: Path, deployment: Deployment) -> None:
    """Make a deployment's directory; it appears whole or not at all.

    Parameters
    ----------
    directory
        New or empty; on the server, where it stays.
    deployment
        The deployment.

    Raises
    ------
    DeploymentError
        There is something already.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DeploymentError(
            f"{directory}: exists and is not an empty directory; give another one, or remove it."
        )
    if (
        "'" in str(directory)
        or '"' in str(directory)
        or any(sign in str(directory) for sign in "\\%$\n")
    ):
        raise DeploymentError(
            f"{directory}: a path without quotes, backslashes, '%', '$' and line breaks is needed."
        )

    with new_directory(directory, mode=0o700) as partial:
        _write_server(partial / "server", directory / "server", deployment)
        for node in deployment.nodes:
            write_node(partial, node, deployment)

        (partial / "README.md").write_text(
            guide.for_the_server(deployment, directory), encoding="utf-8"
        )
        write_compose(partial, directory, deployment)
        write_deployment(partial, deployment)
        audit.note(
            partial / "server", "init", nodes=len(deployment.nodes), address=deployment.address
        )


def write_node(directory: Path, node: Device, deployment: Deployment) -> None:
    """Write what a device is sent when it joins, and its guide; what was there is replaced.

    Parameters
    ----------
    directory
        The deployment's.
    node
        The device.
    deployment
        Its deployment.
    """
    folder = directory / "nodes" / node.name
    folder.mkdir(parents=True, exist_ok=True)
    if node.public_key is not None:
        (folder / "key.pub").write_text(f"{node.public_key}\n", encoding="utf-8")

    if deployment.secure:
        shutil.copyfile(directory / "server" / "ca.crt", folder / "ca.crt")

    settings = NodeSettings(
        node.name, deployment.address, deployment.secure, node.config, node.data
    )
    (folder / SETTINGS).write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
    (folder / NODE_UNIT).write_text(systemd_unit(node_unit(node)), encoding="utf-8")
    (folder / "Containerfile").write_text(containerfile(node), encoding="utf-8")
    (folder / "README.md").write_text(guide.for_a_device(deployment, node), encoding="utf-8")


def _write_server(server: Path, final: Path, deployment: Deployment) -> None:
    server.mkdir()
    (server / "nginx").mkdir()
    if deployment.secure:
        _write_certificates(server, (deployment.host, *deployment.names, *LOOPBACK))

    inner = final / INNER / "ca.crt" if deployment.secure else None
    (server / "config.toml").write_text(connection_file(SUPERLINK_ADDRESS, inner), encoding="utf-8")
    (server / "run.toml").write_text(_run_config(deployment), encoding="utf-8")
    listen = f"0.0.0.0:{deployment.port}"
    proxy = nginx_configuration(
        deployment, final, final, listen, SUPERLINK_ADDRESS, REGISTRAR_ADDRESS
    )
    (server / CONFIGURATION).write_text(proxy, encoding="utf-8")

    for name, unit in server_units(final, deployment).items():
        (server / name).write_text(systemd_unit(unit), encoding="utf-8")

    monitoring.write_monitoring(server / "monitoring", REGISTRAR_ADDRESS)


def _write_certificates(server: Path, names: tuple[str, ...]) -> None:
    authority = new_authority()
    write_private(server / "ca.key", authority.key_text)
    (server / "ca.crt").write_bytes(authority.text)
    write_private(server / CERTIFICATE, server_certificate(authority, names))
    inner = server / INNER
    inner.mkdir(mode=0o700)
    own = new_authority(days=INNER_DAYS)  # its key is not kept: it signs this one certificate
    both = server_certificate(own, LOOPBACK, INNER_DAYS - 1)
    (inner / "ca.crt").write_bytes(own.text)
    key, begin, certificate = both.partition(b"-----BEGIN CERTIFICATE")
    write_private(inner / "server.key", key)
    (inner / "server.crt").write_bytes(begin + certificate)


def _run_config(deployment: Deployment) -> str:
    half = (len(deployment.active) + 1) // 2
    return f"""# What `fedcmi deploy run` starts from; any key of [tool.flwr.app.config] can stand here.
data = {json.dumps(deployment.data)}
fraction-train = 1.0
min-train-nodes = 1
# rounds wait for half of the nodes, and do not wait for more; a device that is away comes in later
min-available-nodes = {half}
wait-timeout = 600.0
round-timeout = 3600.0
checkpoint-every = 1
"""
