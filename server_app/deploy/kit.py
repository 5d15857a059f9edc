"""Writes a deployment's directory: certificates, keys, services, the run's keys and a README with every command."""

import getpass
import json
import shutil
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import new_directory
from server_app.deploy import services
from server_app.deploy.certificates import make_authority, make_node_key, make_server_certificate
from server_app.deploy.deployment import Deployment, DeploymentError, Device, write_deployment
from server_app.deploy.guide import guide
from server_app.launch.flower_cli import connection_file

SERVER_UNIT, NODE_UNIT = "fedcmi-superlink.service", "fedcmi-supernode.service"


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
        raise DeploymentError(f"{directory}: exists and is not an empty directory; give another one, or remove it.")
    if "'" in str(directory) or '"' in str(directory) or any(sign in str(directory) for sign in "\\%$\n"):
        raise DeploymentError(f"{directory}: a path without quotes, backslashes, '%', '$' and line breaks is needed.")
    with new_directory(directory, mode=0o700) as partial:
        _write_server(partial / "server", directory / "server", deployment)
        authority = partial / "server" / "ca.crt"
        for node in deployment.nodes:
            _write_node(partial / "nodes" / node.name, node, deployment, authority)
        (partial / "README.md").write_text(guide(deployment, directory), encoding="utf-8")
        write_deployment(partial, deployment)


def _write_server(server: Path, final: Path, deployment: Deployment) -> None:
    server.mkdir()
    if deployment.secure:
        make_server_certificate(server, make_authority(server), (deployment.host, *deployment.names))
    (server / "config.toml").write_text(
        connection_file(deployment.address, final / "ca.crt" if deployment.secure else None), encoding="utf-8"
    )
    (server / "run.toml").write_text(_run_config(deployment), encoding="utf-8")
    command = services.superlink_command(deployment, final, final, "0.0.0.0", deployment.port)
    home = {"FLWR_HOME": str(final / "flwr")}
    unit = services.systemd_unit("FedCMI SuperLink", getpass.getuser(), services.programs(), home, command)
    (server / SERVER_UNIT).write_text(unit, encoding="utf-8")
    inside = services.superlink_command(
        deployment, services.CONTAINER_SERVER, services.DEVICE_STATE, "0.0.0.0", deployment.port
    )
    mounts = [f"{final}:{services.CONTAINER_SERVER}:ro", f"{deployment.data}:{deployment.data}:ro", "RUNS:RUNS"]
    text = services.containerfile("SuperLink", inside, mounts, deployment.port)
    (server / "Containerfile").write_text(text, encoding="utf-8")


def _write_node(directory: Path, node: Device, deployment: Deployment, authority: Path) -> None:
    directory.mkdir(parents=True)
    if deployment.secure:
        shutil.copyfile(authority, directory / "ca.crt")
        if node.public_key is None:
            make_node_key(directory, node.name)
        else:
            (directory / "key.pub").write_text(f"{node.public_key}\n", encoding="utf-8")
    command = services.supernode_command(deployment, node, services.DEVICE_HOME, deployment.address)
    home = {"FLWR_HOME": str(services.DEVICE_STATE)}
    unit = services.systemd_unit(f"FedCMI SuperNode {node.name}", "fedcmi", services.DEVICE_PROGRAMS, home, command)
    (directory / NODE_UNIT).write_text(unit, encoding="utf-8")
    mounts = [f"{services.DEVICE_HOME}:{services.DEVICE_HOME}:ro", f"{node.data}:{node.data}:ro"]
    (directory / "Containerfile").write_text(
        services.containerfile(f"SuperNode {node.name}", command, mounts), encoding="utf-8"
    )


def _run_config(deployment: Deployment) -> str:
    half = (len(deployment.nodes) + 1) // 2
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
