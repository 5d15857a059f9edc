"""What a device's owner wants to know before its service starts.

Whether all is there, and the server answers.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fedcmi_flwr.data.schema import SchemaError, read_spec
from server_app.deploy import clock, server_check
from server_app.deploy.certificates import is_node_key, read_certificates
from server_app.deploy.node_settings import NodeSettings, read_settings
from server_app.deploy.server_check import UnreachableError

LEAST_DISK = 1e9
"""Bytes that should be free."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    text: str


def check_device(
    home: Path, address: str | None = None, now: Callable[[], float] = time.time
) -> list[Finding]:
    """Look at all that a device needs.

    Parameters
    ----------
    home
        The device's directory.
    address
        Of the server; None: as the settings have it.
    now
        This machine's clock, in seconds since 1970.

    Returns
    -------
    What was found, good or not.

    Raises
    ------
    DeploymentError
        The device has not joined.
    """
    settings = read_settings(home)
    found = [
        Finding("version", True, f"fedcmi-flwr {version('fedcmi-flwr')}, flwr {version('flwr')}")
    ]
    if settings.secure:
        found += [_key(home), _certificate(home)]

    found += _server(settings, home, address or settings.address, now)

    return [*found, _data(settings), _disk(home)]


def _key(home: Path) -> Finding:
    try:
        mode = (home / "key").stat().st_mode & 0o777
        public = (home / "key.pub").read_text(encoding="utf-8").strip()
    except OSError as error:
        return Finding("key", False, str(error))

    if mode & 0o077:
        return Finding(
            "key", False, f"{home / 'key'}: others can read it (mode {mode:o}); `chmod 600` it."
        )
    if not is_node_key(public):
        return Finding("key", False, f"{home / 'key.pub'}: no key of kind ECDSA P-384.")

    return Finding("key", True, "private")


def _certificate(home: Path) -> Finding:
    try:
        problem = server_check.certificate_problem(read_certificates(home / "ca.crt")[-1])
    except (OSError, ValueError) as error:
        return Finding("authority", False, str(error))

    return Finding("authority", problem is None, problem or "valid")


def _server(
    settings: NodeSettings, home: Path, address: str, now: Callable[[], float]
) -> list[Finding]:
    authority = home / "ca.crt" if settings.secure else None
    try:
        answer = server_check.ask(address, "/health", authority, now)
    except (UnreachableError, OSError) as error:
        return [Finding("server", False, str(error))]

    wrong = clock.complaint(answer.clock_difference) if settings.secure else None
    right = f"{answer.clock_difference:+.1f} s from the server's"

    return [
        Finding("server", True, f"{address} answers"),
        Finding("clock", wrong is None, wrong or right),
    ]


def _data(settings: NodeSettings) -> Finding:
    try:
        spec = read_spec(Path(settings.data))
    except (SchemaError, OSError) as error:
        return Finding("data", False, str(error))

    return Finding("data", True, f"{settings.data}: {', '.join(spec.modality_names)}")


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    return Finding("disk", free >= LEAST_DISK, f"{free / 1e9:.1f} GB free at {home}")
