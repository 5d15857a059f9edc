"""``nodes.toml``, the user's description of a deployment, read strictly."""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedcmi_flwr.config.sections import DEVICES
from fedcmi_flwr.suggestions import did_you_mean
from server_app.deploy.deployment import (
    PROXY,
    REGISTRAR,
    REGISTRAR_PORT,
    SUPERLINK,
    SUPERLINK_PORT,
    Deployment,
    DeploymentError,
    Device,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
HOST = re.compile(r"[A-Za-z0-9.-]+")
"""A name or an IPv4 address; the kit's SuperLink does not listen on IPv6."""
DEVICE_KEYS = {
    "name",
    "modalities",
    "data",
    "device",
    "pretrained",
    "local-epochs",
    "time-budget",
    "personal",
    "public-key",
}
UNSAFE = re.compile(r"[\x00-\x1f'\"\\%$]")
"""Characters with a meaning of their own in the commands, units and tables that paths are
written into."""
RESERVED = (SUPERLINK, PROXY, REGISTRAR)
"""Names that no node can have."""


def read_nodes_toml(path: Path, secure: bool) -> Deployment:
    """Read and check the user's description of a deployment.

    Parameters
    ----------
    path
        TOML file with a table [superlink] (address, data, names) and tables [[node]] (name,
        modalities, data, device, pretrained, local-epochs, time-budget, personal, public-key).
        Relative paths count from its directory.
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
    server = _Table(
        path, "[superlink]", top.take("superlink", "a table", lambda value: isinstance(value, dict))
    )
    server.check_keys({"address", "data", "names"})
    host, port = _host_and_port(server)
    entries = top.take("node", "one or more tables [[node]]", _is_list_of(dict))
    nodes = tuple(read_device(path, place, entry) for place, entry in enumerate(entries))
    for key, found in (
        ("name", [n.name for n in nodes]),
        ("public-key", [n.public_key for n in nodes if n.public_key]),
    ):
        repeated = next((value for value in found if found.count(value) > 1), None)
        if repeated is not None:
            raise DeploymentError(
                f"{path}, [[node]]: {key} = {repeated!r} stands there twice; every node has its "
                "own."
            )

    names = tuple(
        server.take("names", "a list of names and addresses", _is_list_of(str, _is_host), ())
    )

    return Deployment(host, port, server.path("data"), names, secure, nodes)


class _Table:
    """One table of the file, for errors that say where they are."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        self.file, self.name, self.values = path, name, values

    def check_keys(self, known: set[str]) -> None:
        unknown = sorted(set(self.values) - known)
        if unknown:
            raise DeploymentError(
                f"{self.file}, {self.name}: unknown key {unknown[0]!r}; expected are "
                f"{', '.join(sorted(known))}.{did_you_mean(unknown[0], known)}"
            )

    def take(
        self,
        key: str,
        expected: str,
        check: Callable[[Any], bool],
        default: Any = ...,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if key not in self.values and default is not ...:
            return default

        if key not in self.values or not check(self.values[key]):
            found = repr(self.values[key]) if key in self.values else "nothing"
            raise DeploymentError(
                f"{self.file}, {self.name}, key {key!r}: found {found}; expected {expected}."
            )

        return self.values[key]

    def path(self, key: str) -> str:
        expected = "a path without quotes, backslashes, '%', '$' and control characters"
        text = self.take(key, expected, lambda value: isinstance(value, str) and bool(value))
        resolved = str((self.file.parent / Path(text).expanduser()).absolute())
        if UNSAFE.search(resolved):
            raise DeploymentError(
                f"{self.file}, {self.name}, key {key!r}: found {resolved!r}; expected {expected}."
            )

        return resolved


def _host_and_port(server: _Table) -> tuple[str, int]:
    expected = (
        '"host:port" (a name or IPv4) as devices reach the server, like "fedcmi.example.org:8000", '
    )
    expected += f"other than the server's own ports, {SUPERLINK_PORT} and {REGISTRAR_PORT}"

    def check(value: Any) -> bool:  # noqa: ANN401
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        is_port = bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 65536
        return (
            bool(HOST.fullmatch(host))
            and is_port
            and int(port) not in (SUPERLINK_PORT, REGISTRAR_PORT)
        )

    host, _, port = server.take("address", expected, check).rpartition(":")

    return host, int(port)


def read_device(path: Path, place: int, values: Mapping[str, Any]) -> Device:
    """Read and check one [[node]].

    Parameters
    ----------
    path
        The file, for errors; relative paths count from its directory.
    place
        The device's partition id.
    values
        The table.

    Returns
    -------
    The device.

    Raises
    ------
    DeploymentError
        A key is unknown, missing or wrong.
    """
    table = _Table(path, f"[[node]] number {place + 1}", values)
    table.check_keys(DEVICE_KEYS)
    expected = f"1 to 63 letters, digits, '-' or '_', and none of {', '.join(RESERVED)}"
    name = table.take("name", expected, _is_node_name)
    modalities = table.take(
        "modalities",
        'a list of different names, like ["audio", "visual"]',
        _is_list_of(str, NAME.fullmatch),
    )
    device = table.take(
        "device", f"one of {', '.join(DEVICES)}", lambda value: value in DEVICES, None
    )
    pretrained = table.take("pretrained", "'modality=DIR modality=DIR'", _is_safe_text, None)
    epochs = table.take(
        "local-epochs", "an integer from 1", lambda v: type(v) is int and v >= 1, None
    )
    seconds = table.take(
        "time-budget", "a number from 0", lambda v: type(v) in (int, float) and v >= 0, None
    )
    personal = table.path("personal") if "personal" in values else None
    public_key = _public_key(table) if "public-key" in values else None
    data = table.path("data")

    return Device(
        name,
        place,
        tuple(modalities),
        data,
        device,
        pretrained,
        epochs,
        seconds,
        personal,
        public_key,
    )


def _public_key(table: _Table) -> str:
    from server_app.deploy.certificates import is_node_key

    path = Path(table.path("public-key"))
    text = path.read_text(encoding="utf-8").strip()
    if not is_node_key(text):
        raise DeploymentError(
            f"{table.file}, {table.name}, key 'public-key': {path} does not hold what is "
            "expected, the public half of an OpenSSH key of kind ECDSA P-384 (ssh-keygen -t "
            "ecdsa -b 384 makes one)."
        )

    return text


def _is_list_of(
    kind: type, check: Callable[[Any], Any] = lambda value: True
) -> Callable[[Any], bool]:
    def is_list(value: Any) -> bool:  # noqa: ANN401
        if not isinstance(value, list) or not value:
            return False

        different = all(item not in value[:place] for place, item in enumerate(value))
        return all(isinstance(item, kind) and check(item) for item in value) and (
            different or kind is dict
        )

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


def _is_node_name(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and NAME.fullmatch(value) is not None and value not in RESERVED
