"""The units of a deployment: of the server's processes, and of a device."""

import getpass
from pathlib import Path

from fedcmi_flwr.machine.node_names import VARIABLE
from server_app.deploy import services
from server_app.deploy.deployment import (
    PROXY,
    REGISTRAR,
    REGISTRAR_PORT,
    SUPERLINK,
    SUPERLINK_PORT,
    Deployment,
    Device,
)
from server_app.deploy.proxy import nginx_command
from server_app.deploy.units import Unit

SUPERLINK_UNIT, PROXY_UNIT, REGISTRAR_UNIT, NODE_UNIT = (
    f"fedcmi-{name}.service" for name in (SUPERLINK, PROXY, REGISTRAR, "supernode")
)
SUPERLINK_ADDRESS, REGISTRAR_ADDRESS = f"127.0.0.1:{SUPERLINK_PORT}", f"127.0.0.1:{REGISTRAR_PORT}"
NGINX = "/usr/sbin/nginx"
"""Where Debian, Fedora and their relatives have it."""


def node_unit(node: Device) -> Unit:
    """Return a device's unit.

    Parameters
    ----------
    node
        The device.

    Returns
    -------
    The unit.
    """
    command = services.node_command(services.DEVICE_HOME)

    return Unit(
        f"FedCMI SuperNode {node.name}",
        "fedcmi",
        [str(services.DEVICE_PROGRAMS / command[0]), *command[1:]],
        writable=[services.DEVICE_HOME, *map(Path, node.written)],
        environment={"FLWR_HOME": str(services.DEVICE_STATE)},
        gpu=node.device != "cpu",
        notifies=True,
    )


def server_units(final: Path, deployment: Deployment) -> dict[str, Unit]:
    """Return file name -> unit, of the server's processes.

    Parameters
    ----------
    final
        Directory of the server's files.
    deployment
        The deployment.

    Returns
    -------
    In the order in which they start.
    """
    user = service_user()
    home = {"FLWR_HOME": str(final / "flwr"), VARIABLE: str(final / "names.json")}
    programs = services.programs()
    superlink = services.superlink_command(deployment.secure, final, final, SUPERLINK_ADDRESS)
    nginx = nginx_command(final)
    units = {
        SUPERLINK_UNIT: Unit(
            "FedCMI SuperLink",
            user,
            [str(programs / superlink[0]), *superlink[1:]],
            [final.parent],
            home,
            gpu=True,
        ),
        PROXY_UNIT: Unit(
            "FedCMI proxy",
            user,
            [NGINX, *nginx[1:]],
            [final],
            memory="512M",
            port=deployment.port,
            reload="/bin/kill -HUP $MAINPID",
        ),
    }
    if deployment.secure:
        registrar = services.registrar_command(final.parent)
        command = [str(programs / registrar[0]), *registrar[1:]]
        units[REGISTRAR_UNIT] = Unit(
            "FedCMI registrar", user, command, [final.parent], home, memory="1G", notifies=True
        )

    return units


def service_user() -> str:
    """Return whom the server's services run as.

    Who makes the deployment, or "fedcmi" where that is root.
    """
    user = getpass.getuser()
    return "fedcmi" if user == "root" else user
