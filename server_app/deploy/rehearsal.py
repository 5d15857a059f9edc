"""A deployment rehearsed on this machine: all of its processes, over loopback, with its own keys and certificates."""

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import processes, services
from server_app.deploy.deployment import SUPERLINK, Deployment, DeploymentError, read_deployment
from server_app.launch import flower_cli
from server_app.launch.flower_cli import CONNECTION, FlowerRunError
from server_app.launch.run_log import tail

HOST = "127.0.0.1"
JOIN_TIMEOUT = 60.0
"""Seconds that a SuperNode may take to be let in or turned away."""
LET_GO_TIMEOUT = 120.0
"""Seconds after which a SuperLink has surely missed a killed SuperNode; it takes about 60."""
JOINED = "SuperNode ID: "
"""What a SuperNode says when it was let in."""


@dataclass(frozen=True)
class Status:
    """One process of a rehearsal."""

    name: str
    pid: int | None
    """None: it does not run."""
    registered: bool | None
    """Whether the SuperLink knows the node's key; None where nobody can say."""
    online: bool
    """The SuperLink answers; or it hears the node, of whose end it learns after about a minute."""
    note: str
    """The last line of its log."""


class Rehearsal:
    """What runs below ``DIR/rehearsal``.

    Parameters
    ----------
    directory
        What ``fedcmi deploy init`` made.

    Raises
    ------
    DeploymentError
        It made nothing there.
    """

    def __init__(self, directory: Path) -> None:
        self.kit = directory.resolve()  # its processes are found by its path, by whichever way it is named
        self.deployment: Deployment = read_deployment(self.kit)
        self.home = self.kit / "rehearsal"
        self.authority = self.kit / "server" / "ca.crt" if self.deployment.secure else None

    @property
    def address(self) -> str:
        """Return where the SuperLink listens."""
        return f"{HOST}:{self._ports()[SUPERLINK]}"

    def is_up(self) -> bool:
        """Return whether the SuperLink runs."""
        return processes.pid_of(self._path(SUPERLINK)) is not None

    def up(self, only: Collection[str], without: Collection[str], show: Callable[[str], None]) -> None:
        """Start what does not run yet; when this fails or is interrupted, what it started is stopped.

        Parameters
        ----------
        only
            Names of processes; empty: all.
        without
            Names to leave out.
        show
            Called with one line for each process.

        Raises
        ------
        DeploymentError
            An unknown name, or nodes without the SuperLink.
        FlowerRunError
            A process ended, or was not let in.
        """
        if not hasattr(os, "posix_spawn"):
            raise DeploymentError("a rehearsal starts processes as Linux and macOS do; this system cannot.")
        chosen = self._chosen(only, without)
        self.home.mkdir(exist_ok=True, mode=0o700)
        with self._stopped_on_failure() as started:
            if SUPERLINK in chosen:
                started.append(SUPERLINK)
                self._start_superlink()
                show(f"{SUPERLINK}: {self.address}")
            waiting = {}
            nodes = [name for name in chosen if name != SUPERLINK]
            self._wait_until_let_go(nodes)
            for name in nodes:
                self._register(name)
                started.append(name)
                waiting[name] = self._start_node(name)
            for name, begin in waiting.items():
                show(f"{name}: node {self._wait_until_joined(name, begin)}")

    def down(self) -> None:
        """Stop everything, devices before their server; harmless where nothing runs."""
        processes.stop(*(self._path(node.name) for node in self.deployment.nodes))
        processes.stop(self._path(SUPERLINK))

    def status(self) -> list[Status]:
        """Return how each process is."""
        up = self.is_up() and flower_cli.is_healthy(self.address, self.authority)
        found = [Status(SUPERLINK, processes.pid_of(self._path(SUPERLINK)), None, up, self._note(SUPERLINK))]
        known = self._known_nodes() if up else {}
        for node in self.deployment.nodes:
            pid, node_id = processes.pid_of(self._path(node.name)), self._node_id(node.name)
            registered = node_id in known if up else None
            found.append(
                Status(node.name, pid, registered, known.get(node_id or "") == "online", self._note(node.name))
            )
        return found

    def _chosen(self, only: Collection[str], without: Collection[str]) -> list[str]:
        unknown = sorted({*only, *without} - set(self.deployment.processes))
        if unknown:
            raise DeploymentError(
                f"{unknown[0]!r}: no process of this deployment; it has {', '.join(self.deployment.processes)}."
            )
        wanted = [name for name in self.deployment.processes if (name in only or not only) and name not in without]
        if SUPERLINK not in wanted and not self.is_up():
            raise DeploymentError(f"the {SUPERLINK} does not run; start it too (`--only {SUPERLINK}`).")
        chosen = [name for name in wanted if processes.pid_of(self._path(name)) is None]
        if not chosen:
            raise DeploymentError("nothing to start: all of it runs; see `fedcmi deploy status`.")
        for node in self.deployment.nodes:
            if node.name in chosen and self.deployment.secure and not (self._files(node.name) / "key").is_file():
                raise DeploymentError(
                    f"{node.name}: its private key is on the device; put a copy at {self._files(node.name) / 'key'} to "
                    f"rehearse it, or leave it out (`--without {node.name}`)."
                )
        return chosen

    @contextmanager
    def _stopped_on_failure(self) -> Iterator[list[str]]:
        started: list[str] = []
        try:
            yield started
        except BaseException:
            for name in reversed(started):
                processes.stop(self._path(name))
            raise

    def _start_superlink(self) -> None:
        port = self._ports()[SUPERLINK]
        check_free(port)
        home = self._path(SUPERLINK)
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(flower_cli.connection_file(self.address, self.authority), encoding="utf-8")
        command = services.superlink_command(self.deployment, self.kit / "server", self.home, HOST, port)
        self._start(SUPERLINK, command)
        flower_cli.wait_until_healthy(self.address, self.authority, self.is_up, home.with_suffix(".log"))

    def _start_node(self, name: str) -> int:
        """Start a node and return where its log goes on."""
        home = self._path(name)
        home.mkdir(exist_ok=True)
        log = home.with_suffix(".log")
        begin = log.stat().st_size if log.exists() else 0
        files, port = self._files(name), self._ports()[name]
        self._start(
            name, services.supernode_command(self.deployment, self.deployment.node(name), files, self.address, port)
        )
        return begin

    def _start(self, name: str, command: list[str]) -> None:
        processes.stop(self._path(name))  # what a killed one left
        environment = {**flower_cli.flower_environment(self._path(name)), **services.QUIET}
        processes.start(self._path(name), [flower_cli.program(command[0]), *command[1:]], environment)

    def _wait_until_joined(self, name: str, begin: int) -> str:
        path = self._path(name)
        deadline = time.monotonic() + JOIN_TIMEOUT
        while time.monotonic() < deadline:
            runs = processes.pid_of(path) is not None  # before the log is read, so that its last words are seen
            new = path.with_suffix(".log").read_bytes()[begin:].decode(errors="replace")
            if JOINED in new:
                return new.partition(JOINED)[2].split()[0]
            if not runs:
                raise FlowerRunError(f"{name} ended. The end of its log:\n{tail(path.with_suffix('.log'))}")
            time.sleep(0.2)
        raise FlowerRunError(
            f"{name} was not let in within {JOIN_TIMEOUT:.0f} s. The end of its log:\n{tail(path.with_suffix('.log'))}"
        )

    def _wait_until_let_go(self, names: Collection[str]) -> None:
        """Wait until the SuperLink has noticed the end of nodes that were killed: before, it lets in no second one."""
        ids = {self._registered().get(name) for name in names} - {None}
        deadline = time.monotonic() + LET_GO_TIMEOUT
        while ids and time.monotonic() < deadline:
            if not {node for node, status in self._known_nodes().items() if status == "online"} & ids:
                return
            time.sleep(1.0)

    def _register(self, name: str) -> None:
        """Make a node's key known to the SuperLink, once: its database keeps it."""
        if not self.deployment.secure or name in self._registered():
            return
        key = str(self._files(name) / "key.pub")
        answer = flower_cli.ask(self._environment(), "supernode", "register", key, CONNECTION, "--name", name)
        self._write("registered", {**self._registered(), name: str(answer["node-id"])})

    def _known_nodes(self) -> dict[str, str]:
        """Return node id -> status, of all nodes that the SuperLink knows."""
        answer = flower_cli.ask(self._environment(), "supernode", "list", CONNECTION)
        return {str(node["node-id"]): str(node["status"]) for node in answer["nodes"]}

    def _node_id(self, name: str) -> str | None:
        registered = self._registered().get(name)
        log = self._path(name).with_suffix(".log")
        if registered is not None or not log.exists():
            return registered
        _, found, after = log.read_text(encoding="utf-8", errors="replace").rpartition(JOINED)
        return after.split()[0] if found else None

    def _registered(self) -> dict[str, str]:
        return self._read("registered")

    def _ports(self) -> dict[str, int]:
        """Return process -> port; chosen once, so that nodes find a SuperLink that comes back."""
        ports: dict[str, int] = self._read("ports")
        if not ports:
            ports = {name: flower_cli.free_port() for name in self.deployment.processes}
            if self.deployment.host in (HOST, "localhost"):
                ports[SUPERLINK] = self.deployment.port
            self.home.mkdir(exist_ok=True, mode=0o700)
            self._write("ports", ports)
        return ports

    def _read(self, name: str) -> dict[str, Any]:
        path = self.home / f"{name}.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def _write(self, name: str, values: dict[str, Any]) -> None:
        write_atomically(self.home / f"{name}.json", json.dumps(values, indent=1) + "\n")

    def _environment(self) -> dict[str, str]:
        return flower_cli.flower_environment(self._path(SUPERLINK))

    def _note(self, name: str) -> str:
        return processes.last_note(self._path(name))

    def _path(self, name: str) -> Path:
        return self.home / name

    def _files(self, name: str) -> Path:
        return self.kit / "nodes" / name


def check_free(port: int) -> None:
    """Raise DeploymentError where another process listens, which could be taken for the SuperLink."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that was just closed takes no port
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DeploymentError(
                f"{HOST}:{port}: another process has this port ({error}); stop it, or give the deployment another one."
            ) from error
