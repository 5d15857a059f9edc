"""A device's service.

It starts the SuperNode, watches clock, certificate and server, and reports to the server.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import clock, server_check, services
from server_app.deploy.certificates import CertificateError, fingerprint, parse_certificates
from server_app.deploy.data_fingerprint import data_fingerprint
from server_app.deploy.node_settings import read_settings
from server_app.deploy.reports import LONGEST_TEXT, Report, send_form
from server_app.deploy.server_check import UnreachableError
from server_app.deploy.systemd import notify
from server_app.launch.flower_cli import program

TURN = 60.0
"""Seconds between two looks at clock, certificate and server."""
PATIENCE = 10.0
"""Seconds that the SuperNode may take to end politely."""


KEPT_BUNDLES = 3
"""The newest ones, of runs that may go on."""


class NodeService:
    """A SuperNode and what watches it.

    Parameters
    ----------
    home
        The device's directory.
    address
        Of the server; None: as the settings have it.
    port
        On loopback, for the SuperNode's own helpers; None: Flower's default.
    show
        Called with one line for whatever changes.
    now
        This machine's clock, in seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        address: str | None,
        port: int | None,
        show: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.home, self.settings = home, read_settings(home)
        self.address = address or self.settings.address
        self.authority = home / "ca.crt" if self.settings.secure else None
        self._command = services.supernode_command(
            self.settings.secure, self.settings.config, home, self.address, port
        )
        self._show, self._now, self._note = show, now, ""
        self._restart = False

    def run(self) -> int:
        """Serve until the SuperNode ends.

        Returns
        -------
        Its exit status, or 1 where it was not started: systemd tries again.
        """
        difference = self._look()
        if self._note:
            self._report(difference)
            return 1

        child = self._start()
        notify("READY=1")
        try:
            while True:
                try:
                    status = child.wait(TURN)
                    self._show(f"the SuperNode ended with status {status}.")
                    return status
                except subprocess.TimeoutExpired:
                    child = self._turn(child)
        finally:
            _stop(child)

    def _turn(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        was_wrong = bool(self._note)
        difference = self._look()
        # While it was wrong, the SuperNode was turned away
        self._restart |= was_wrong and not self._note
        if not self._note:
            self._renew_authority()

        self._report(difference)
        notify("WATCHDOG=1")
        if _trains(child):
            return child

        remove_old_bundles(Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr")))
        if self._restart:
            self._restart = False
            _stop(child)
            return self._start()

        return child

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([program(self._command[0]), *self._command[1:]])

    def _look(self) -> float:
        """Ask the server, note problems, and return how far this clock is ahead of the server's."""
        difference, wrong = 0.0, None
        try:
            difference = server_check.ask(
                self.address, "/health", self.authority, self._now
            ).clock_difference
            wrong = clock.complaint(difference) if self.settings.secure else None
        except UnreachableError as error:
            wrong = str(error)

        if (wrong or "") != self._note:
            self._note = wrong or ""
            self._show(wrong or "server and clock are right again.")

        return difference

    def _renew_authority(self) -> None:
        """Take over what the server says about its authorities.

        The connection was checked by those known before.
        """
        if self.authority is None:
            return

        try:
            received = server_check.ask(
                self.address, "/fedcmi/ca.crt", self.authority, self._now
            ).content
            count = len(parse_certificates(received, f"{self.address}/fedcmi/ca.crt"))
        except (UnreachableError, CertificateError) as error:
            self._show(f"authorities not renewed: {error}")
            return

        if received != self.authority.read_bytes():
            write_atomically(self.authority, received)
            self._show(f"{self.authority}: renewed, with {count} authorities.")
            self._restart = True

    def _report(self, difference: float) -> None:
        if self.authority is None:
            return

        report = Report(
            clock_difference=difference,
            disk_free=float(shutil.disk_usage(self.home).free),
            version=version("fedcmi-flwr"),
            flower=version("flwr"),
            data=data_fingerprint(Path(self.settings.data)),
            authority=fingerprint(self.authority.read_bytes()),
            note="".join(sign for sign in self._note if sign.isprintable())[:LONGEST_TEXT],
        )
        body, headers = send_form(report, self.settings.name, self.home / "key")

        try:
            server_check.ask(
                self.address, "/fedcmi/report", self.authority, self._now, body, headers
            )
        except UnreachableError as error:
            if not self._note:
                self._show(f"no report: {error}")


def remove_old_bundles(flower_home: Path) -> None:
    """Remove what this project's earlier runs brought along.

    Each version of the code is a directory of its own.
    """
    bundles = sorted(
        (flower_home / "apps").glob("fedcmi.fedcmi-flwr.*"), key=lambda path: path.stat().st_mtime
    )
    for bundle in bundles[:-KEPT_BUNDLES]:
        shutil.rmtree(bundle, ignore_errors=True)


def _trains(child: subprocess.Popen[bytes]) -> bool:
    """Return whether the SuperNode has a client's process now."""
    try:
        family = psutil.Process(child.pid).children(recursive=True)
        return any("flwr-clientapp" in " ".join(process.cmdline()) for process in family)
    except psutil.Error:  # one of them ended meanwhile
        return False


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
