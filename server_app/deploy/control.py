"""What the SuperLink's Control API says and does about nodes.

One connection, however many nodes there are.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

from server_app.launch.flower_cli import FlowerRunError

UNREGISTERED, ONLINE = "unregistered", "online"


@dataclass(frozen=True)
class RegisteredNode:
    """A node as the SuperLink knows it."""

    node_id: int
    public_key: str
    """PEM."""
    online: bool
    last_seen: float | None
    """Seconds since 1970 at which the SuperLink last heard it; None: never."""


class Control:
    """The Control API of a SuperLink on this machine.

    Parameters
    ----------
    address
        "host:port", on loopback.
    authority
        Certificate to check it by; None: no TLS.
    """

    def __init__(self, address: str, authority: Path | None) -> None:
        self.address = address
        trust = authority.read_bytes() if authority is not None else None
        interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
        self._client = ControlHttpClient.from_server_address(
            address, authority is None, trust, interceptors
        )

    def close(self) -> None:
        """Close the connection, which otherwise ends with the process."""
        self._client.close()

    def nodes(self) -> list[RegisteredNode]:
        """Return the nodes that are registered.

        Returns
        -------
        In no order; those that were unregistered are not among them.

        Raises
        ------
        FlowerRunError
            The SuperLink does not answer.
        """
        try:
            answer = self._client.ListNodes(ListNodesRequest())
        except httpx.HTTPError as error:
            raise self._failure(error) from error

        known = [node for node in answer.nodes_info if node.status != UNREGISTERED]
        return [
            RegisteredNode(
                node.node_id, node.public_key.decode(), node.status == ONLINE, _last_seen(node)
            )
            for node in known
        ]

    def register(self, public_key: str, name: str) -> int:
        """Let a node in.

        Parameters
        ----------
        public_key
            OpenSSH line.
        name
            The node's.

        Returns
        -------
        The id that the SuperLink gives it.

        Raises
        ------
        FlowerRunError
            The SuperLink does not answer, or the key has been used before.
        """
        request = RegisterNodeRequest(public_key=pem(public_key).encode(), name=name)
        try:
            return self._client.RegisterNode(request).node_id
        except httpx.HTTPError as error:
            raise self._failure(error) from error

    def unregister(self, node_id: int) -> None:
        """Shut a node out, at once and for ever: its key cannot be registered again.

        Parameters
        ----------
        node_id
            The SuperLink's id of it.

        Raises
        ------
        FlowerRunError
            The SuperLink does not answer, or does not know it.
        """
        try:
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
        except httpx.HTTPError as error:
            raise self._failure(error) from error

    def _failure(self, error: httpx.HTTPError) -> FlowerRunError:
        said = error.response.text[:500] if isinstance(error, httpx.HTTPStatusError) else str(error)
        return FlowerRunError(f"the SuperLink at {self.address} did not do it: {said}")


def _last_seen(node: NodeInfo) -> float | None:
    if node.status == ONLINE:
        return node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
    return (
        datetime.fromisoformat(node.last_deactivated_at).timestamp()
        if node.last_deactivated_at
        else None
    )


def pem(public_key: str) -> str:
    """Return an OpenSSH line's key as PEM, as the SuperLink has it."""
    key = load_ssh_public_key(public_key.encode())
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
