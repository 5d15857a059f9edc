"""The whole deployment in containers on one machine: a Compose file, and what its image is made of.

Its services run the units' commands on the units' files. The server's three share a network of
their own, where they find each other on loopback; devices reach of it what the proxy lets through.
"""

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import services
from server_app.deploy.certificates import LOOPBACK
from server_app.deploy.containers import USER, health_command, image_steps
from server_app.deploy.deployment import Deployment, Device
from server_app.deploy.proxy import CERTIFICATE, CONFIGURATION, INNER
from server_app.deploy.service_units import (
    PROXY_UNIT,
    REGISTRAR_ADDRESS,
    REGISTRAR_UNIT,
    SUPERLINK_ADDRESS,
    SUPERLINK_UNIT,
    node_unit,
    server_units,
)
from server_app.deploy.units import Unit

Tables = dict[str, dict[str, Any]]
COMPOSE, FILE, IMAGE_FILE = "compose", "compose.yaml", "Containerfile"
"""Directory below the deployment's, and what is in it."""
NETWORK = "server.network"
"""The service that holds the server's network; no node can have a name with a dot."""
SECRET = "server.pem"
PAUSE = {"interval": "20s", "timeout": "20s", "start_period": "60s"}
"""How often a service's health is looked at."""
IMAGE = f"""# The image of all services of {FILE}: this project, nginx, and curl for health checks. It
# holds no keys and no data. Build it with the project's wheel beside this file.
{image_steps("apt-get update && apt-get install -y --no-install-recommends nginx-light curl")}\
RUN install -d -o {USER} -g {USER} -m 700 {services.DEVICE_HOME} {services.DEVICE_STATE}
USER {USER}
"""


def is_possible(deployment: Deployment) -> bool:
    """Return whether containers can find the server: by a name, which is not this machine's own."""
    try:
        ipaddress.ip_address(deployment.host)
    except ValueError:
        return deployment.host not in LOOPBACK

    return False


def owner() -> tuple[int, int]:
    """Return user and group of the server's services: who makes the deployment, but never root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (USER, USER)


def write_compose(directory: Path, final: Path, deployment: Deployment) -> None:
    """Write the Compose file and its Containerfile, where containers can find the server.

    Parameters
    ----------
    directory
        Where the deployment's directory is now.
    final
        Where it will be.
    deployment
        The deployment.
    """
    if not is_possible(deployment):
        return

    folder = directory / COMPOSE
    folder.mkdir(exist_ok=True)
    write_atomically(folder / FILE, compose_file(final, deployment))
    write_atomically(folder / IMAGE_FILE, IMAGE)


def compose_file(final: Path, deployment: Deployment) -> str:
    """Return the Compose file.

    Parameters
    ----------
    final
        The deployment's directory.
    deployment
        The deployment.

    Returns
    -------
    YAML.
    """
    wanted: Tables = {NETWORK: _network(deployment)}
    for name, unit in server_units(final / "server", deployment).items():
        wanted[_process(name)] = _server(name, unit, final, deployment)

    wanted |= {node.name: _device(node, final, deployment) for node in deployment.active}
    named = [volume for node in deployment.active for volume in _volumes(node, deployment)]
    secret = {SECRET: {"file": str(final / "server" / CERTIFICATE)}} if deployment.secure else {}
    rest: Tables = {"networks": {"outside": {}, "devices": {"internal": True}}}
    rest |= {"volumes": {name: {} for name in named}}
    rest |= {"secrets": secret} if secret else {}

    return "\n".join([_head(), *_lines(wanted, "  "), *_lines(rest, ""), ""])


def _head() -> str:
    user, group = owner()
    return f"""# Written by `fedcmi deploy`: the deployment in containers on one machine. README.md, one directory
# up, has the commands. No service runs as root, has capabilities, or can write to its image.
name: fedcmi
x-service: &service
  image: fedcmi
  pull_policy: never
  init: true
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  restart: unless-stopped
  pids_limit: 4096
  ulimits: {{nofile: 16384, core: 0}}
  logging: {{driver: json-file, options: {{max-size: 10m, max-file: "5"}}}}
x-server: &server
  <<: *service
  user: "{user}:{group}"
  network_mode: "service:{NETWORK}"
x-device: &device
  <<: *service
  user: "{USER}:{USER}"
  networks: [devices]
  depends_on: {{proxy: {{condition: service_healthy}}}}
services:"""


def _network(deployment: Deployment) -> dict[str, Any]:
    """Return the service whose network the server's processes share, also when one restarts."""
    port = deployment.port
    wanted: dict[str, Any] = {
        "<<": "*service",
        "build": {"context": ".", "dockerfile": IMAGE_FILE},
        "user": f"{USER}:{USER}",
        "command": ["sleep", "infinity"],
        "networks": {"outside": {}, "devices": {"aliases": [deployment.host]}},
        "ports": [f"{port}:{port}"],
    }
    if port < 1024:  # as the unit has the right to
        wanted["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": port}

    return wanted


def _server(name: str, unit: Unit, final: Path, deployment: Deployment) -> dict[str, Any]:
    server, secure = final / "server", deployment.secure
    scheme = "https" if secure else "http"
    places = {
        SUPERLINK_UNIT: (f"{scheme}://{SUPERLINK_ADDRESS}", server / INNER / "ca.crt"),
        REGISTRAR_UNIT: (f"http://{REGISTRAR_ADDRESS}", None),
        PROXY_UNIT: (f"{scheme}://localhost:{deployment.port}", server / "ca.crt"),
    }
    address, authority = places[name]
    trust = ["--cacert", str(authority)] if secure and authority is not None else []
    wanted: dict[str, Any] = {"<<": "*server", **_command(unit)}
    wanted["healthcheck"] = {
        "test": ["CMD", "curl", "--fail", "--silent", *trust, f"{address}/health"],
        **PAUSE,
    }
    wanted["tmpfs"] = ["/tmp", str(services.DEVICE_STATE)]
    if unit.memory.endswith(("M", "G")):
        wanted["mem_limit"] = unit.memory.lower()

    if name == PROXY_UNIT:
        # It sees its own files; the rest of its directory is empty, and in memory
        wanted["tmpfs"] = ["/tmp", str(server), str(server / "nginx")]
        seen = [server / "ca.crt", server / INNER / "ca.crt"] if secure else []
        wanted["volumes"] = [_bind(path) for path in (server / CONFIGURATION, *seen)]
        if secure:
            wanted["secrets"] = [{"source": SECRET, "target": str(server / CERTIFICATE)}]
    else:
        data = [_bind(Path(deployment.data))] if name == SUPERLINK_UNIT else []
        wanted["volumes"] = [_bind(final, writable=True), *data]

    return wanted


def _device(node: Device, final: Path, deployment: Deployment) -> dict[str, Any]:
    home, state = services.DEVICE_HOME, services.DEVICE_STATE
    mounts = [_volume(f"{node.name}.state", state)]
    if deployment.secure:
        mounts.append(_volume(f"{node.name}.home", home))
    else:
        mounts.append(_bind(final / "nodes" / node.name, inside=home))

    mounts += [_bind(Path(path), writable=True) for path in node.written]
    mounts += [_bind(Path(path)) for path in node.read]

    wanted: dict[str, Any] = {"<<": "*device", **_command(node_unit(node))}
    wanted |= {"tmpfs": ["/tmp"], "volumes": mounts}
    wanted["healthcheck"] = {"test": ["CMD", *health_command()], **PAUSE}
    if node.device == "cuda":
        gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        wanted["deploy"] = {"resources": {"reservations": {"devices": [gpus]}}}

    return wanted


def _volumes(node: Device, deployment: Deployment) -> list[str]:
    kinds = ("home", "state") if deployment.secure else ("state",)
    return [f"{node.name}.{kind}" for kind in kinds]


def _command(unit: Unit) -> dict[str, Any]:
    """Return a unit's command and variables; the image has the programs on its path."""
    program, *arguments = unit.command
    variables = {"environment": dict(unit.environment)} if unit.environment else {}
    return {"command": [Path(program).name, *arguments], **variables}


def _bind(path: Path, writable: bool = False, inside: Path | None = None) -> dict[str, Any]:
    """Return the mount of a path of this machine, which must be there, at the same place."""
    mount: dict[str, Any] = {"type": "bind", "source": str(path), "target": str(inside or path)}
    mount |= {} if writable else {"read_only": True}

    return mount | {"bind": {"create_host_path": False}}


def _volume(name: str, inside: Path) -> dict[str, Any]:
    return {"type": "volume", "source": name, "target": str(inside)}


def _process(unit: str) -> str:
    return unit.removeprefix("fedcmi-").removesuffix(".service")


def _lines(tables: Tables, indent: str) -> list[str]:
    """Return tables of tables as YAML, with a line for each value and each entry of a list of
    tables, written as JSON, which is YAML.

    Compose reads "$" as the beginning of a variable, and "$$" as "$".
    """
    lines = []
    for name, table in tables.items():
        lines.append(f"{indent}{name}:" if table else f"{indent}{name}: {{}}")
        for key, value in table.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines.append(f"{indent}  {key}:")
                lines += [f"{indent}    - {_written(entry)}" for entry in value]
            else:
                lines.append(f"{indent}  {key}: {value if key == '<<' else _written(value)}")

    return lines


def _written(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value).replace("$", "$$")
