"""Another version of this project for a deployment.

A wheel that the server offers and devices fetch.

A wheel is code that devices will run, as the app is that comes with each run: who may change the
server's files decides what runs there. It is offered by the registrar, over the connection that
devices check by ``ca.crt``.
"""

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import audit, server_check
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.node_settings import read_settings
from server_app.deploy.reports import read_reports
from server_app.deploy.site import Site

FOLDER = "upgrade"
"""Below the deployment's ``server``; holds one wheel at most."""
NAME = re.compile(r"fedcmi_flwr-[A-Za-z0-9_.!+]+-py3-none-any\.whl")
LARGEST = 50 * 10**6
"""Bytes of a wheel; the project's has about one MB."""


@dataclass(frozen=True)
class Running:
    """What a device runs."""

    name: str
    version: str | None
    """Of this project, as its service last said; None: it never did."""
    flower: str | None
    wanted: str
    """The version that it should run."""

    @property
    def state(self) -> str:
        """Return "as wanted", "behind", "ahead" or "not known"."""
        if self.version is None:
            return "not known"

        try:
            found, wanted = Version(self.version), Version(self.wanted)
        except InvalidVersion:  # a device may say anything
            return "not known"

        if found == wanted:
            return "as wanted"

        return "behind" if found < wanted else "ahead"


def offer(site: Site, wheel: Path) -> str:
    """Offer a wheel to the devices; one that was offered before is removed.

    Parameters
    ----------
    site
        Whose devices.
    wheel
        Of this project, as ``make wheel`` leaves it in ``dist``.

    Returns
    -------
    Its version.

    Raises
    ------
    DeploymentError
        It is no wheel of this project.
    """
    found = wheel_version(wheel)
    folder = site.kit / "server" / FOLDER
    folder.mkdir(exist_ok=True)
    content = wheel.read_bytes()
    old = [path for path in folder.iterdir() if path.name != wheel.name]
    write_atomically(folder / wheel.name, content)
    for path in old:
        path.unlink()

    sha256 = hashlib.sha256(content).hexdigest()
    audit.note(
        site.state,
        "upgrade",
        version=found,
        file=wheel.name,
        sha256=sha256,
        removed=[p.name for p in old],
    )

    return found


def offered(site: Site) -> Path | None:
    """Return the wheel that is offered; None: there is none."""
    found = sorted((site.kit / "server" / FOLDER).glob("*.whl"))
    return found[-1] if found else None


def versions(site: Site) -> list[Running]:
    """Return what each active device runs, and what it should.

    The wheel that is offered, or what the server runs.
    """
    wheel, reports = offered(site), read_reports(site)
    wanted = wheel_version(wheel) if wheel is not None else version("fedcmi-flwr")
    found = []
    for node in site.deployment.active:
        _, report = reports.get(node.name, (None, None))
        runs = report.version if report is not None else None
        flower = report.flower if report is not None else None
        found.append(Running(node.name, runs, flower, wanted))

    return found


def fetch(home: Path, address: str | None = None) -> Path:
    """Fetch the wheel that the server offers, on the device.

    One that was fetched before is removed.

    Parameters
    ----------
    home
        The device's directory.
    address
        Of the server; None: as the settings have it.

    Returns
    -------
    The wheel, below ``home``.

    Raises
    ------
    UnreachableError
        The server cannot be used, or offers nothing.
    DeploymentError
        The device has not joined, or what came is no wheel of this project.
    """
    settings = read_settings(home)
    if not settings.secure:
        raise DeploymentError(
            f"{home}: a server without certificates offers no code; bring the wheel another way."
        )

    server = address or settings.address
    name = (
        server_check.ask(server, "/fedcmi/upgrade", home / "ca.crt")
        .content.decode("ascii", "replace")
        .strip()
    )
    if NAME.fullmatch(name) is None:
        raise DeploymentError(f"{server}: offers {name[:80]!r}, which is no wheel of this project.")

    content = server_check.ask(server, "/fedcmi/upgrade.whl", home / "ca.crt").content
    folder = home / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_atomically(folder / name, content)
    try:
        wheel_version(folder / name)
    except DeploymentError:
        shutil.rmtree(folder)
        raise

    return folder / name


def wheel_version(wheel: Path) -> str:
    """Return the version of a wheel of this project.

    Parameters
    ----------
    wheel
        The file.

    Returns
    -------
    As its metadata say.

    Raises
    ------
    DeploymentError
        It is none, is broken, or its name says something else.
    """
    try:
        if NAME.fullmatch(wheel.name) is None or wheel.stat().st_size > LARGEST:
            raise ValueError("its name or size")

        with zipfile.ZipFile(wheel) as file:
            broken = file.testzip()
            if broken is not None:
                raise ValueError(f"{broken} in it is broken")

            (metadata,) = [
                name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
            ]
            found = Parser().parsestr(file.read(metadata).decode())

        if found["Name"] != "fedcmi-flwr" or not wheel.name.startswith(
            f"fedcmi_flwr-{found['Version']}-"
        ):
            raise ValueError(f"it is {found['Name']} {found['Version']}")

        return str(Version(found["Version"]))
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DeploymentError(
            f"{wheel}: not a wheel of this project ({error}); `make wheel` leaves one in dist."
        ) from error
