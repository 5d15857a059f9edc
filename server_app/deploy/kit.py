"""Writes a deployment's directory: certificates, keys, services, the run's keys and a README with every command."""

import getpass
import json
import shutil
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import new_directory
from server_app.deploy import services
from server_app.deploy.certificates import make_authority, make_node_key, make_server_certificate
from server_app.deploy.guide import guide
from server_app.deploy.plan import Node, Plan, PlanError, write_plan
from server_app.launch.flower_cli import connection_file

SERVER_UNIT, NODE_UNIT = "fedcmi-superlink.service", "fedcmi-supernode.service"


def write_kit(directory: Path, plan: Plan) -> None:
    """Make a deployment's directory; it appears whole or not at all.

    Parameters
    ----------
    directory
        New or empty; on the server, where it stays.
    plan
        The deployment.

    Raises
    ------
    PlanError
        There is something already.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise PlanError(f"{directory}: exists and is not an empty directory; give another one, or remove it.")
    if "'" in str(directory) or '"' in str(directory) or any(sign in str(directory) for sign in "\\%$\n"):
        raise PlanError(f"{directory}: a path without quotes, backslashes, '%', '$' and line breaks is needed.")
    with new_directory(directory, mode=0o700) as partial:
        _write_server(partial / "server", directory / "server", plan)
        authority = partial / "server" / "ca.crt"
        for node in plan.nodes:
            _write_node(partial / "nodes" / node.name, node, plan, authority)
        (partial / "README.md").write_text(guide(plan, directory), encoding="utf-8")
        write_plan(partial, plan)


def _write_server(server: Path, final: Path, plan: Plan) -> None:
    server.mkdir()
    if plan.secure:
        make_server_certificate(server, make_authority(server), (plan.host, *plan.names))
    (server / "config.toml").write_text(
        connection_file(plan.address, final / "ca.crt" if plan.secure else None), encoding="utf-8"
    )
    (server / "run.toml").write_text(_run_config(plan), encoding="utf-8")
    command = services.superlink_command(plan, final, final, "0.0.0.0", plan.port)
    home = {"FLWR_HOME": str(final / "flwr")}
    unit = services.systemd_unit("FedCMI SuperLink", getpass.getuser(), services.programs(), home, command)
    (server / SERVER_UNIT).write_text(unit, encoding="utf-8")
    inside = services.superlink_command(plan, services.CONTAINER_SERVER, services.DEVICE_STATE, "0.0.0.0", plan.port)
    mounts = [f"{final}:{services.CONTAINER_SERVER}:ro", f"{plan.data}:{plan.data}:ro", "RUNS:RUNS"]
    text = services.containerfile("SuperLink", inside, mounts, plan.port)
    (server / "Containerfile").write_text(text, encoding="utf-8")


def _write_node(directory: Path, node: Node, plan: Plan, authority: Path) -> None:
    directory.mkdir(parents=True)
    if plan.secure:
        shutil.copyfile(authority, directory / "ca.crt")
        if node.public_key is None:
            make_node_key(directory, node.name)
        else:
            (directory / "key.pub").write_text(f"{node.public_key}\n", encoding="utf-8")
    command = services.supernode_command(plan, node, services.DEVICE_HOME, plan.address)
    home = {"FLWR_HOME": str(services.DEVICE_STATE)}
    unit = services.systemd_unit(f"FedCMI SuperNode {node.name}", "fedcmi", services.DEVICE_PROGRAMS, home, command)
    (directory / NODE_UNIT).write_text(unit, encoding="utf-8")
    mounts = [f"{services.DEVICE_HOME}:{services.DEVICE_HOME}:ro", f"{node.data}:{node.data}:ro"]
    (directory / "Containerfile").write_text(
        services.containerfile(f"SuperNode {node.name}", command, mounts), encoding="utf-8"
    )


def _run_config(plan: Plan) -> str:
    half = (len(plan.nodes) + 1) // 2
    return f"""# What `fedcmi deploy run` starts from; any key of [tool.flwr.app.config] can stand here.
data = {json.dumps(plan.data)}
fraction-train = 1.0
min-train-nodes = 1
# rounds wait for half of the nodes, and do not wait for more; a device that is away comes in later
min-available-nodes = {half}
wait-timeout = 600.0
round-timeout = 3600.0
checkpoint-every = 1
"""
