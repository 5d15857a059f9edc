"""What a device must know about itself and its server: ``node.json`` in its directory."""

import json
from dataclasses import dataclass
from pathlib import Path

from server_app.deploy.deployment import DeploymentError

SETTINGS = "node.json"


@dataclass(frozen=True)
class NodeSettings:
    """What a device must know about itself and its server."""

    name: str
    address: str
    """Of the server, "host:port"."""
    secure: bool
    """TLS and node authentication."""
    config: str
    """The SuperNode's ``--node-config``."""
    data: str
    """Path of its prepared directory."""


def read_settings(home: Path) -> NodeSettings:
    """Return what ``fedcmi deploy join`` left in a device's directory.

    Parameters
    ----------
    home
        The directory.

    Returns
    -------
    The settings.

    Raises
    ------
    DeploymentError
        They are missing or broken.
    """
    path = home / SETTINGS
    try:
        return NodeSettings(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DeploymentError(
            f"{path}: not found; `fedcmi deploy join TOKEN --home {home}` makes it."
        ) from error
    except (ValueError, TypeError) as error:
        raise DeploymentError(f"{path}: not the settings of a node ({error}).") from error
