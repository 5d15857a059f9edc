"""What a deployment consists of, and the description of it that the kit keeps."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.suggestions import did_you_mean

DESCRIPTION = "deployment.json"
"""In the kit's directory."""
SUPERLINK, PROXY, REGISTRAR = "superlink", "proxy", "registrar"
"""The server's processes; no node can have one of these names."""
SUPERLINK_PORT, REGISTRAR_PORT = 39701, 39702
"""Where the server's own processes listen, on loopback."""


class DeploymentError(ValueError):
    """A description of a deployment that cannot be used.

    The text names file, table, key, found and expected.
    """


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
    personal: str | None = None
    """Absolute path of the directory where it keeps a model of its own; None: it keeps none."""
    public_key: str | None = None
    """OpenSSH line of a key that was made before; None: the device makes its key when it joins."""
    revoked: bool = False
    """It is shut out; its name and its partition id stay taken."""

    @property
    def config(self) -> str:
        """Return its ``--node-config``.

        Without num-partitions, since all of the data is its own.
        """
        values = {"name": self.name, "modalities": "+".join(self.modalities), "data": self.data}
        more = {"device": self.device, "pretrained": self.pretrained, "personal": self.personal}
        values |= {key: text for key, text in more.items() if text}
        numbers = {"local-epochs": self.local_epochs, "time-budget": self.time_budget}
        written = [f"{key}={number}" for key, number in numbers.items() if number is not None]
        texts = [f'{key}="{text}"' for key, text in values.items()]

        return " ".join([f"partition-id={self.partition_id}", *written, *texts])

    @property
    def read(self) -> tuple[str, ...]:
        """Return the absolute paths that its service reads: its data, and its frozen trunks."""
        trunks = [part.partition("=")[2] for part in (self.pretrained or "").split()]
        return (self.data, *(path for path in trunks if path.startswith("/")))

    @property
    def written(self) -> tuple[str, ...]:
        """Return the absolute paths that its service writes to, besides its own two directories."""
        return (self.personal,) if self.personal else ()


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
    """All that there ever were, by partition id."""

    @property
    def active(self) -> tuple[Device, ...]:
        """Return the nodes that may take part."""
        return tuple(node for node in self.nodes if not node.revoked)

    @property
    def address(self) -> str:
        """Return "host:port"."""
        return f"{self.host}:{self.port}"

    @property
    def processes(self) -> tuple[str, ...]:
        """Return the names of all processes, the server's first, in the order in which they
        start.
        """
        return (*self.server_processes, *(node.name for node in self.active))

    @property
    def server_processes(self) -> tuple[str, ...]:
        """Return the names of the server's processes.

        Without security nobody needs to be registered.
        """
        return (SUPERLINK, REGISTRAR, PROXY) if self.secure else (SUPERLINK, PROXY)

    def node(self, name: str) -> Device:
        """Return a node by its name.

        Parameters
        ----------
        name
            Of a node, active or revoked.

        Returns
        -------
        The node.

        Raises
        ------
        DeploymentError
            There is none of that name.
        """
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            names = [node.name for node in self.nodes]
            raise DeploymentError(
                f"{name!r}: no node of this deployment.{did_you_mean(name, names)}"
            )

        return found


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
        nodes = tuple(
            Device(**{**node, "modalities": tuple(node["modalities"])})
            for node in stored.pop("nodes")
        )
        return Deployment(**{**stored, "names": tuple(stored["names"]), "nodes": nodes})
    except FileNotFoundError as error:
        raise DeploymentError(
            f"{directory}: no {DESCRIPTION}; make a deployment with `fedcmi deploy init` first."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DeploymentError(f"{path}: not a deployment of this project ({error}).") from error
