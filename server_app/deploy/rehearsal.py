"""A deployment rehearsed on this machine.

All of its processes, over loopback, with its own keys and certificates.
"""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.machine.node_names import VARIABLE
from server_app.deploy import processes, services
from server_app.deploy.deployment import (
    PROXY,
    REGISTRAR,
    SUPERLINK,
    Deployment,
    DeploymentError,
    Device,
    read_deployment,
)
from server_app.deploy.join import join
from server_app.deploy.proxy import CONFIGURATION, nginx_command, nginx_configuration, nginx_program
from server_app.deploy.service_units import REGISTRAR_ADDRESS, SUPERLINK_ADDRESS
from server_app.deploy.site import Site
from server_app.deploy.status import Status, device_statuses
from server_app.launch import flower_cli
from server_app.launch.flower_cli import FlowerRunError
from server_app.launch.run_log import tail

HOST = "127.0.0.1"
FEDCMI = (sys.executable, "-m", "server_app.commands.main")
"""This project's commands, whether its programs are on the path or not."""
REHEARSAL = "rehearsal"
"""Its directory, below the deployment's."""
JOIN_TIMEOUT = 180.0
"""Seconds that a SuperNode may take to be let in or turned away."""
LET_GO_TIMEOUT = 120.0
"""Seconds after which a SuperLink has surely missed a killed SuperNode; it takes about 60."""
JOINED = "SuperNode ID: "
"""What a SuperNode says when it was let in."""


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
        # Its processes are found by its path, by whichever way it is named
        self.kit = directory.resolve()
        self.deployment: Deployment = read_deployment(self.kit)
        self.home = self.kit / REHEARSAL

    @property
    def site(self) -> Site:
        """Return the SuperLink's site, with the devices that there are now."""
        ports = self._ports()
        places = (f"{HOST}:{ports[name]}" for name in (PROXY, SUPERLINK, REGISTRAR))
        return Site(read_deployment(self.kit), self.kit, self.home, *places)

    def is_up(self) -> bool:
        """Return whether the SuperLink runs."""
        return processes.pid_of(self._path(SUPERLINK)) is not None

    def up(
        self, only: Collection[str], without: Collection[str], show: Callable[[str], None]
    ) -> None:
        """Start what does not run yet.

        When this fails or is interrupted, what it started is stopped.

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
            raise DeploymentError(
                "a rehearsal starts processes as Linux and macOS do; this system cannot."
            )

        chosen = self._chosen(only, without)
        self.home.mkdir(exist_ok=True, mode=0o700)
        servers = [name for name in chosen if name in self.deployment.server_processes]
        nodes = [name for name in chosen if name not in servers]
        # What killed ones left: it holds their ports, and their place at the SuperLink
        processes.stop(*map(self._path, chosen))
        for name in servers:
            check_free(self._place(name)[0])

        for name in nodes:
            self._check_own_key(self.deployment.node(name))

        with self._stopped_on_failure() as started:
            for name in servers:
                started.append(name)
                self._start_server(name)

            for name in servers:
                show(f"{name}: {self._wait_for_server(name)}")

            self._wait_until_let_go(nodes)
            waiting = {}

            for name in nodes:
                self._let_in(name)
                started.append(name)
                waiting[name] = self._start_node(name)

            for name, begin in waiting.items():
                show(f"{name}: node {self._wait_until_joined(name, begin)}")

    def down(self) -> None:
        """Stop everything, devices before their server; harmless where nothing runs."""
        processes.stop(*(self._path(node.name) for node in self.deployment.nodes))
        processes.stop(*(self._path(name) for name in self.deployment.server_processes))

    def status(self) -> list[Status]:
        """Return how each process is."""
        site = self.site
        up = self.is_up() and flower_cli.is_healthy(site.superlink, site.inner_authority)
        found = [
            Status(name, online=self._answers(name)) for name in self.deployment.server_processes
        ]
        found += device_statuses(site, up)

        return [
            replace(
                status,
                pid=processes.pid_of(self._path(status.name)),
                note=status.note or self._note(status.name),
            )
            for status in found
        ]

    def _chosen(self, only: Collection[str], without: Collection[str]) -> list[str]:
        unknown = sorted({*only, *without} - set(self.deployment.processes))
        if unknown:
            raise DeploymentError(
                f"{unknown[0]!r}: no process of this deployment; it has "
                f"{', '.join(self.deployment.processes)}."
            )

        wanted = [
            name
            for name in self.deployment.processes
            if (name in only or not only) and name not in without
        ]
        if SUPERLINK not in wanted and not self.is_up():
            raise DeploymentError(
                f"the {SUPERLINK} does not run; start it too (`--only {SUPERLINK}`)."
            )

        chosen = [name for name in wanted if processes.pid_of(self._path(name)) is None]
        if not chosen:
            raise DeploymentError("nothing to start: all of it runs; see `fedcmi deploy status`.")

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

    def _start_server(self, name: str) -> None:
        site, home = self.site, self._path(name)
        home.mkdir(exist_ok=True)
        files = self.kit / "server"
        if name == SUPERLINK:
            connection = flower_cli.connection_file(site.superlink, site.inner_authority)
            (home / "config.toml").write_text(connection, encoding="utf-8")
            command = services.superlink_command(
                self.deployment.secure, files, self.home, site.superlink
            )
            command[0] = flower_cli.program(command[0])
        elif name == REGISTRAR:
            command = [*FEDCMI, "deploy", "registrar", str(self.kit), "--rehearsal"]
        else:
            workers = "root" if os.geteuid() == 0 else ""  # others may not enter root's directories
            places = (files, self.home, site.address, site.superlink, site.registrar)
            text = nginx_configuration(self.deployment, *places, workers)
            (self.home / CONFIGURATION).write_text(text, encoding="utf-8")
            (self.home / "nginx").mkdir(exist_ok=True)
            command = [nginx_program(), *nginx_command(self.home)[1:]]

        self._start(name, command)

    def _wait_for_server(self, name: str) -> str:
        """Return a server's address when it answers."""
        path, place = self._path(name), self._place(name)
        deadline = time.monotonic() + flower_cli.START_TIMEOUT
        while time.monotonic() < deadline and processes.pid_of(path) is not None:
            if flower_cli.is_healthy(*place):
                return place[0]
            time.sleep(0.2)

        raise FlowerRunError(f"{name} did not start:\n{tail(path.with_suffix('.log'))}")

    def _answers(self, name: str) -> bool:
        return processes.pid_of(self._path(name)) is not None and flower_cli.is_healthy(
            *self._place(name)
        )

    def _place(self, name: str) -> tuple[str, Path | None]:
        """Return where one of the server's processes listens, and the certificate to check it by."""
        site = self.site
        places = {
            SUPERLINK: (site.superlink, site.inner_authority),
            REGISTRAR: (site.registrar, None),
            PROXY: (site.address, site.authority),
        }
        return places[name]

    def _let_in(self, name: str) -> None:
        """Let a device join as a real one does, unless it has joined."""
        site, files = self.site, self.files(name)
        node = site.deployment.node(name)
        if not site.deployment.secure or node.public_key is not None:
            self._hand_over(node)

        if node.public_key is not None:
            site.register(node, node.public_key)
        elif site.deployment.secure and (
            site.key(name) is None or not (files / "ca.crt").is_file()
        ):
            if files.exists():
                shutil.rmtree(files)  # of a device that was exchanged for this one

            join(str(site.issue_token(name)), files)

    def _hand_over(self, node: Device) -> None:
        """Copy to a device without a token what its guide says it is brought."""
        shutil.copytree(self.kit / "nodes" / node.name, self.files(node.name), dirs_exist_ok=True)

    def _check_own_key(self, node: Device) -> None:
        key = self.files(node.name) / "key"
        if node.public_key is not None and not key.is_file():
            raise DeploymentError(
                f"{node.name}: its private key is on the device; put a copy at {key} to rehearse "
                f"it, or leave it out (`--without {node.name}`)."
            )

    def _start_node(self, name: str) -> int:
        """Start a node and return where its log goes on."""
        log = self._path(name).with_suffix(".log")
        begin = log.stat().st_size if log.exists() else 0
        place = ["--address", self.site.address, "--port", str(self._port(name))]
        self._start(name, [*FEDCMI, "deploy", "node", str(self.files(name)), *place])

        return begin

    def _start(self, name: str, command: list[str]) -> None:
        environment = {**flower_cli.flower_environment(self._path(name)), **services.QUIET}
        environment[VARIABLE] = str(self.site.names)
        processes.start(self._path(name), command, environment)

    def _wait_until_joined(self, name: str, begin: int) -> str:
        path = self._path(name)
        deadline = time.monotonic() + JOIN_TIMEOUT
        while time.monotonic() < deadline:
            # Before the log is read, so that its last words are seen
            runs = processes.pid_of(path) is not None
            new = path.with_suffix(".log").read_bytes()[begin:].decode(errors="replace")
            if JOINED in new:
                return new.partition(JOINED)[2].split()[0]
            if not runs:
                raise FlowerRunError(
                    f"{name} ended. The end of its log:\n{tail(path.with_suffix('.log'))}"
                )

            time.sleep(0.2)

        raise FlowerRunError(
            f"{name} was not let in within {JOIN_TIMEOUT:.0f} s. The end of its "
            f"log:\n{tail(path.with_suffix('.log'))}"
        )

    def _wait_until_let_go(self, names: Collection[str]) -> None:
        """Wait until the SuperLink has noticed the end of nodes that were killed.

        Before, it lets in no second one.
        """
        if not self.deployment.secure:
            return

        deadline = time.monotonic() + LET_GO_TIMEOUT
        while time.monotonic() < deadline:
            registered = self.site.registered()
            if not any(registered[name].online for name in names if name in registered):
                return

            time.sleep(1.0)

    def _ports(self) -> dict[str, int]:
        """Return process -> port; chosen once, so that nodes find a SuperLink that comes back."""
        path = self.home / "ports.json"
        if path.is_file():
            stored: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
            return stored

        ports = {name: flower_cli.free_port() for name in (SUPERLINK, REGISTRAR, PROXY)}
        if self.deployment.host in (HOST, "localhost"):
            ports[PROXY] = self.deployment.port

        self._keep_ports(ports)

        return ports

    def _port(self, name: str) -> int:
        """Return a node's port, for its own helpers."""
        ports = self._ports()
        if name not in ports:
            self._keep_ports(ports | {name: flower_cli.free_port()})

        return self._ports()[name]

    def _keep_ports(self, ports: Mapping[str, int]) -> None:
        self.home.mkdir(exist_ok=True, mode=0o700)
        write_atomically(self.home / "ports.json", json.dumps(ports, indent=1) + "\n")

    def _note(self, name: str) -> str:
        return processes.last_note(self._path(name))

    def _path(self, name: str) -> Path:
        return self.home / name

    def files(self, name: str) -> Path:
        """Return a device's own directory in the rehearsal."""
        return self._path(name) / "device"


def check_free(address: str) -> None:
    """Raise DeploymentError where another process listens, which could be taken for one of the
    server's.
    """
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        # A connection that was just closed takes no port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise DeploymentError(
                f"{address}: another process has this port ({error}); stop it, or give the "
                "deployment another one."
            ) from error


def site_of(directory: Path) -> Site:
    """Return the rehearsal's site where it is up, else that of the real SuperLink, on this machine.

    Parameters
    ----------
    directory
        What ``fedcmi deploy init`` made.

    Returns
    -------
    The site.

    Raises
    ------
    DeploymentError
        It made nothing there.
    """
    rehearsal = Rehearsal(directory)
    return rehearsal.site if rehearsal.is_up() else real_site(directory)


def real_site(directory: Path) -> Site:
    """Return the site of the real SuperLink, on this machine."""
    kit = directory.resolve()
    deployment = read_deployment(kit)
    return Site(
        deployment, kit, kit / "server", deployment.address, SUPERLINK_ADDRESS, REGISTRAR_ADDRESS
    )
