"""How a device is, as it says itself: signed with its key on the device, kept on the server."""

import json
import math
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.site import Site

FOLDER = "reports"
NODE_HEADER, SIGNATURE_HEADER = "X-FedCMI-Node", "X-FedCMI-Signature"
LONGEST_TEXT = 200
"""Characters of a text in a report; the rest is cut off."""


@dataclass(frozen=True)
class Report:
    """What a device says of itself."""

    clock_difference: float
    """Seconds by which its clock is ahead of the server's."""
    disk_free: float
    """Bytes, where it writes."""
    version: str
    """Of this project."""
    flower: str
    """Version of Flower."""
    data: str
    """Fingerprint of its prepared data; empty: there are none."""
    authority: str
    """Fingerprint of the certificates that it checks the server by."""
    note: str
    """What is wrong; empty: nothing."""


def send_form(report: Report, name: str, private_key: Path) -> tuple[bytes, dict[str, str]]:
    """Return a report as it is sent.

    Parameters
    ----------
    report
        The report.
    name
        The device's.
    private_key
        OpenSSH file of its key.

    Returns
    -------
    Body and headers of the request.
    """
    body = json.dumps(asdict(report)).encode()
    key = load_ssh_private_key(private_key.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DeploymentError(f"{private_key}: not a key of kind ECDSA.")

    signature = key.sign(body, ec.ECDSA(hashes.SHA384()))

    return body, {NODE_HEADER: name, SIGNATURE_HEADER: b64encode(signature).decode()}


def keep_report(site: Site, name: str, signature: str, body: bytes) -> None:
    """Check a report and keep it, with the time at which it came.

    Parameters
    ----------
    site
        Whose device it is.
    name
        The device's, as it says.
    signature
        Of the body, base64.
    body
        JSON.

    Raises
    ------
    DeploymentError
        It is not from a registered device of that name, or no report.
    """
    site.deployment.node(name)  # a name of this deployment, and so a safe file name
    public_key = site.key(name)
    if public_key is None:
        raise DeploymentError(
            f"{name}: not registered; it joins with a token (`fedcmi deploy token DIR {name}`)."
        )

    key = load_ssh_public_key(public_key.encode())
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("not a key of kind ECDSA")

        key.verify(b64decode(signature, validate=True), body, ec.ECDSA(hashes.SHA384()))
        report = _report(json.loads(body))
    except (InvalidSignature, ValueError, TypeError, RecursionError) as error:
        raise DeploymentError(
            f"{name}: a report that is not signed with its key, or is none."
        ) from error

    folder = site.state / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(
        folder / f"{name}.json", json.dumps({"received": time.time(), **asdict(report)}) + "\n"
    )


def read_reports(site: Site) -> dict[str, tuple[float, Report]]:
    """Return device -> (seconds since 1970 at which its newest report came, the report)."""
    found = {}
    for node in site.deployment.active:
        path = site.state / FOLDER / f"{node.name}.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            found[node.name] = (stored.pop("received"), _report(stored))

    return found


def _report(values: Mapping[str, Any]) -> Report:
    """Check what a device sent: it is printed, and exported as numbers."""
    report = Report(**values)
    for field in fields(report):
        value = getattr(report, field.name)
        if field.type is float and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"{field.name}: a finite number is expected.")
        if field.type is str and not (
            isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_TEXT
        ):
            raise ValueError(f"{field.name}: a short printable text is expected.")

    return report
