"""Where a deployment's SuperLink is: the real one of this machine, or its rehearsal.

And who is let in there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.machine.locks import locked
from fedcmi_flwr.machine.node_names import read_names, write_names
from server_app.deploy import audit, tokens
from server_app.deploy.certificates import fingerprint
from server_app.deploy.deployment import Deployment, DeploymentError, Device
from server_app.deploy.proxy import INNER

if TYPE_CHECKING:
    from server_app.deploy.control import Control, RegisteredNode


PATIENCE = 60.0
"""Seconds to wait for somebody else who changes who is let in."""


@dataclass(frozen=True)
class Site:
    """A SuperLink with its proxy and registrar."""

    deployment: Deployment
    kit: Path
    """The deployment's directory."""
    state: Path
    """Below it: audit log, tokens, public keys and reports of this SuperLink's devices."""
    address: str
    """Where devices reach it, "host:port"."""
    superlink: str
    """Where it listens, on loopback."""
    registrar: str
    """Where the registrar listens, on loopback."""

    @property
    def authority(self) -> Path | None:
        """Return the certificates by which devices check the server; None: no TLS."""
        return self.kit / "server" / "ca.crt" if self.deployment.secure else None

    @property
    def inner_authority(self) -> Path | None:
        """Return the certificate by which the server's own processes check the SuperLink.

        None: no TLS.
        """
        return self.kit / "server" / INNER / "ca.crt" if self.deployment.secure else None

    @cached_property
    def control(self) -> "Control":
        """Return the SuperLink's Control API."""
        from server_app.deploy.control import Control

        return Control(self.superlink, self.inner_authority)

    @property
    def names(self) -> Path:
        """Return the file of node ids and names, for lines about nodes.

        Devices of the past stay in it.
        """
        return self.state / "names.json"

    def key_file(self, name: str) -> Path:
        """Return where a registered device's public key is."""
        return self.state / "keys" / f"{name}.pub"

    def key(self, name: str) -> str | None:
        """Return the public key by which a device is known here; None: it is not registered."""
        path = self.key_file(name)
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def registered(self) -> dict[str, "RegisteredNode"]:
        """Return device -> what the SuperLink says of it, for registered devices.

        Returns
        -------
        One that is being revoked is among them until the SuperLink has heard of it.
        """
        from server_app.deploy.control import pem

        found = {node.public_key: node for node in self.control.nodes()}
        keys = {node.name: self.key(node.name) for node in self.deployment.nodes}
        known = {name: found.get(pem(key)) for name, key in keys.items() if key is not None}

        return {name: node for name, node in known.items() if node is not None}

    def _registered(self, name: str) -> "RegisteredNode | None":
        """Return what the SuperLink says of one device.

        A new one, of which there may be a thousand, costs no call.
        """
        return self.registered().get(name) if self.key(name) is not None else None

    def register(self, node: Device, public_key: str, who: str | None = None) -> None:
        """Let a device in by a key; one that it had before is shut out.

        Parameters
        ----------
        node
            An active device.
        public_key
            OpenSSH line.
        who
            For the audit log; None: the user who runs this.

        Raises
        ------
        DeploymentError
            The device is revoked.
        """
        if node.revoked:
            raise DeploymentError(
                f"{node.name}: revoked; `fedcmi deploy replace DIR {node.name}` lets a new one in."
            )

        with self.locked():
            registered = self._registered(node.name)
            if registered is not None and self.key(node.name) == public_key:
                return

            if registered is not None:
                self.control.unregister(registered.node_id)

            node_id = self.control.register(public_key, node.name)
            self.key_file(node.name).parent.mkdir(exist_ok=True)
            write_atomically(self.key_file(node.name), public_key + "\n")
            write_names(self.names, read_names(self.names) | {node_id: node.name})

        known_by = fingerprint(public_key.encode())
        audit.note(self.state, "register", who=who, node=node.name, node_id=node_id, key=known_by)

    def shut_out(self, name: str) -> None:
        """Unregister a device, and make its token void; harmless where it is not registered."""
        tokens.withdraw(self.state, name)
        with self.locked():
            registered = self._registered(name)
            if registered is not None:
                self.control.unregister(registered.node_id)

            self.key_file(name).unlink(missing_ok=True)

    def issue_token(self, name: str, hours: float = tokens.HOURS) -> tokens.Token:
        """Make a token for a device.

        Parameters
        ----------
        name
            An active device's.
        hours
            How long it is good for.

        Returns
        -------
        The token.

        Raises
        ------
        DeploymentError
            Nobody joins a deployment without security, and no revoked device.
        """
        if self.authority is None:
            raise DeploymentError(
                "a deployment without security has no tokens: any device may come in."
            )
        if self.deployment.node(name).revoked:
            raise DeploymentError(
                f"{name}: revoked; `fedcmi deploy replace DIR {name}` lets a new one in."
            )

        token = tokens.issue(
            self.state, name, self.address, fingerprint(self.authority.read_bytes()), hours
        )
        audit.note(self.state, "token", node=name, hours=hours)

        return token

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the list of devices that are let in."""
        with locked(self.state / "registrations.lock", PATIENCE):
            yield
