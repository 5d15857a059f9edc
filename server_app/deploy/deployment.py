"""What a deployment consists of: ``nodes.toml``, read strictly, and the copy that the kit keeps of it."""

import ipaddress
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedcmi_flwr.config.sections import DEVICES
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.suggestions import did_you_mean

DESCRIPTION = "deployment.json"
"""In the kit's directory."""
SUPERLINK = "superlink"
"""The server's process; no node can have this name."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
HOST = re.compile(r"[A-Za-z0-9.-]+")
"""A name or an IPv4 address; the kit's SuperLink does not listen on IPv6."""
DEVICE_KEYS = {"name", "modalities", "data", "device", "pretrained", "public-key", "local-epochs", "time-budget"}
UNSAFE = re.compile(r"[\x00-\x1f'\"\\%$]")
"""Characters with a meaning of their own in the commands, units and tables that paths are written into."""


class DeploymentError(ValueError):
    """A description of a deployment that cannot be used; the text names file, table, key, found and expected."""


@dataclass(frozen=True)
class Device:
    """A device."""

    name: str
    """Letters, digits, "-" and "_"."""
    partition_id: int
    """Its place in ``nodes.toml``, from 0."""
    modalities: tuple[str, ...]
    """What it owns."""
    data: str
    """Absolute path of its prepared directory, on the device."""
    device: str | None = None
    """"auto", "cpu" or "cuda"; None: what the run says."""
    pretrained: str | None = None
    """Its directories of frozen trunks, "text=DIR"; None: those of the run."""
    local_epochs: int | None = None
    """Passes over its samples in a round; None: what the run says."""
    time_budget: float | None = None
    """Seconds of training in a round; None: what the run says."""
    public_key: str | None = None
    """OpenSSH line of a key that the device keeps; None: the kit makes one."""

    @property
    def config(self) -> str:
        """Return its ``--node-config``; without num-partitions, since all of the data is its own."""
        values = {"name": self.name, "modalities": "+".join(self.modalities), "data": self.data}
        values |= {key: text for key, text in (("device", self.device), ("pretrained", self.pretrained)) if text}
        numbers = {"local-epochs": self.local_epochs, "time-budget": self.time_budget}
        written = [f"{key}={number}" for key, number in numbers.items() if number is not None]
        texts = [f'{key}="{text}"' for key, text in values.items()]
        return " ".join([f"partition-id={self.partition_id}", *written, *texts])


@dataclass(frozen=True)
class Deployment:
    """A server and its devices."""

    host: str
    """Name or IPv4 address under which devices reach the server."""
    port: int
    data: str
    """Absolute path of the server's prepared directory."""
    names: tuple[str, ...]
    """More names and addresses for the server's certificate."""
    secure: bool
    """TLS and node authentication."""
    nodes: tuple[Device, ...]

    @property
    def address(self) -> str:
        """Return "host:port"."""
        return f"{self.host}:{self.port}"

    @property
    def processes(self) -> tuple[str, ...]:
        """Return the names of all processes, the server's first."""
        return (SUPERLINK, *(node.name for node in self.nodes))

    def node(self, name: str) -> Device:
        """Return a node by its name."""
        return next(node for node in self.nodes if node.name == name)


def read_nodes_toml(path: Path, secure: bool) -> Deployment:
    """Read and check the user's description of a deployment.

    Parameters
    ----------
    path
        TOML file with a table [superlink] (address, data, names) and tables [[node]] (name, modalities, data, device,
        pretrained, local-epochs, time-budget, public-key). Relative paths count from its directory.
    secure
        Whether the deployment has TLS and node authentication.

    Returns
    -------
    The deployment; partition ids are the nodes' places in the file.

    Raises
    ------
    DeploymentError
        Anything that cannot be used.
    OSError
        The file, or a public key, cannot be read.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeploymentError(f"{path}: not a TOML file: {error}.") from error
    top = _Table(path, "the top level", tables)
    top.check_keys({"superlink", "node"})
    server = _Table(path, "[superlink]", top.take("superlink", "a table", lambda value: isinstance(value, dict)))
    server.check_keys({"address", "data", "names"})
    host, port = _host_and_port(server)
    entries = top.take("node", "one or more tables [[node]]", _is_list_of(dict))
    nodes = tuple(_read_device(path, place, entry) for place, entry in enumerate(entries))
    for key, found in (
        ("name", [n.name for n in nodes]),
        ("public-key", [n.public_key for n in nodes if n.public_key]),
    ):
        repeated = next((value for value in found if found.count(value) > 1), None)
        if repeated is not None:
            raise DeploymentError(f"{path}, [[node]]: {key} = {repeated!r} stands there twice; every node has its own.")
    names = tuple(server.take("names", "a list of names and addresses", _is_list_of(str, _is_host), ()))
    return Deployment(host, port, server.path("data"), names, secure, nodes)


def write_deployment(directory: Path, deployment: Deployment) -> None:
    """Keep the deployment in the kit's directory."""
    write_atomically(directory / DESCRIPTION, json.dumps(asdict(deployment), indent=1) + "\n")


def read_deployment(directory: Path) -> Deployment:
    """Return the deployment that a kit's directory is for.

    Parameters
    ----------
    directory
        What ``fedcmi deploy init`` made.

    Returns
    -------
    The deployment.

    Raises
    ------
    DeploymentError
        There is none, or it is broken.
    """
    path = directory / DESCRIPTION
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(Device(**{**node, "modalities": tuple(node["modalities"])}) for node in stored.pop("nodes"))
        return Deployment(**{**stored, "names": tuple(stored["names"]), "nodes": nodes})
    except FileNotFoundError as error:
        raise DeploymentError(
            f"{directory}: no {DESCRIPTION}; make a deployment with `fedcmi deploy init` first."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DeploymentError(f"{path}: not a deployment of this project ({error}).") from error


class _Table:
    """One table of the file, for errors that say where they are."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        self.file, self.name, self.values = path, name, values

    def check_keys(self, known: set[str]) -> None:
        unknown = sorted(set(self.values) - known)
        if unknown:
            raise DeploymentError(
                f"{self.file}, {self.name}: unknown key {unknown[0]!r}; expected are {', '.join(sorted(known))}."
                f"{did_you_mean(unknown[0], known)}"
            )

    def take(self, key: str, expected: str, check: Callable[[Any], bool], default: Any = ...) -> Any:  # noqa: ANN401
        if key not in self.values and default is not ...:
            return default
        if key not in self.values or not check(self.values[key]):
            found = repr(self.values[key]) if key in self.values else "nothing"
            raise DeploymentError(f"{self.file}, {self.name}, key {key!r}: found {found}; expected {expected}.")
        return self.values[key]

    def path(self, key: str) -> str:
        expected = "a path without quotes, backslashes, '%', '$' and control characters"
        text = self.take(key, expected, lambda value: isinstance(value, str) and bool(value))
        resolved = str((self.file.parent / Path(text).expanduser()).absolute())
        if UNSAFE.search(resolved):
            raise DeploymentError(f"{self.file}, {self.name}, key {key!r}: found {resolved!r}; expected {expected}.")
        return resolved


def _host_and_port(server: _Table) -> tuple[str, int]:
    expected = '"host:port" (a name or IPv4) as devices reach the server, like "fedcmi.example.org:8000"'

    def check(value: Any) -> bool:  # noqa: ANN401
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        return bool(HOST.fullmatch(host)) and bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 65536

    host, _, port = server.take("address", expected, check).rpartition(":")
    return host, int(port)


def _read_device(path: Path, place: int, values: Mapping[str, Any]) -> Device:
    table = _Table(path, f"[[node]] number {place + 1}", values)
    table.check_keys(
        {"name", "modalities", "data", "device", "pretrained", "public-key", "local-epochs", "time-budget"}
    )
    expected = f"1 to 63 letters, digits, '-' or '_', not {SUPERLINK!r}"
    name = table.take("name", expected, lambda v: isinstance(v, str) and bool(NAME.fullmatch(v)) and v != SUPERLINK)
    modalities = table.take(
        "modalities", 'a list of different names, like ["audio", "visual"]', _is_list_of(str, NAME.fullmatch)
    )
    device = table.take("device", f"one of {', '.join(DEVICES)}", lambda value: value in DEVICES, None)
    pretrained = table.take("pretrained", "'modality=DIR modality=DIR'", _is_safe_text, None)
    epochs = table.take("local-epochs", "an integer from 1", lambda v: type(v) is int and v >= 1, None)
    seconds = table.take("time-budget", "a number from 0", lambda v: type(v) in (int, float) and v >= 0, None)
    public_key = _public_key(table) if "public-key" in values else None
    data = table.path("data")
    return Device(name, place, tuple(modalities), data, device, pretrained, epochs, seconds, public_key)


def _public_key(table: _Table) -> str:
    from server_app.deploy.certificates import is_node_key

    path = Path(table.path("public-key"))
    text = path.read_text(encoding="utf-8").strip()
    if not is_node_key(text):
        raise DeploymentError(
            f"{table.file}, {table.name}, key 'public-key': {path} does not hold what is expected, the public half of "
            "an OpenSSH key of kind ECDSA P-384 (ssh-keygen -t ecdsa -b 384 makes one)."
        )
    return text


def _is_list_of(kind: type, check: Callable[[Any], Any] = lambda value: True) -> Callable[[Any], bool]:
    def is_list(value: Any) -> bool:  # noqa: ANN401
        if not isinstance(value, list) or not value:
            return False
        different = all(item not in value[:place] for place, item in enumerate(value))
        return all(isinstance(item, kind) and check(item) for item in value) and (different or kind is dict)

    return is_list


def _is_host(text: str) -> bool:
    if ":" not in text:
        return HOST.fullmatch(text) is not None
    try:
        return ipaddress.IPv6Address(text) is not None
    except ValueError:
        return False


def _is_safe_text(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and bool(value) and UNSAFE.search(value) is None
