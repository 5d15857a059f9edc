"""How a device joins: it makes its key itself, shows its token, and gets what its service needs."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import clock, server_check
from server_app.deploy.certificates import fingerprint, make_node_key
from server_app.deploy.server_check import UnreachableError
from server_app.deploy.tokens import TokenError, read_token

FILES = ("ca.crt", "fedcmi-supernode.service", "Containerfile", "node.json")
"""What a device may be sent; nothing else is written."""
PATIENCE = 60.0
"""Seconds in which the server has to let a device in: it asks its SuperLink."""


def join(text: str, home: Path, now: Callable[[], float] = time.time) -> list[Path]:
    """Join a deployment, on the device.

    Parameters
    ----------
    text
        A token.
    home
        Directory for the device's key and files; made if it is missing.
    now
        This machine's clock, in seconds since 1970.

    Returns
    -------
    The files that were written.

    Raises
    ------
    TokenError
        The token is none, or lets nobody in.
    UnreachableError
        The server cannot be used, or this machine's clock is wrong.
    """
    token = read_token(text)
    if (home / "ca.crt").exists():
        raise TokenError(
            f"{home}: has joined already; remove the directory to join as a new device."
        )

    first = server_check.introduction(token.address, now)
    wrong = clock.complaint(first.clock_difference)
    if wrong is not None:
        raise UnreachableError(f"{token.address}: {wrong}")
    if fingerprint(first.content) != token.authority:
        raise UnreachableError(
            f"{token.address}: whoever answers there is not the server that made the token, or "
            "has renewed its authority since; make a new token, and see that nobody is in "
            "between."
        )

    return _enrol(token.address, token.name, token.secret, first.content, home, now)


def _enrol(
    address: str, name: str, secret: str, authority: bytes, home: Path, now: Callable[[], float]
) -> list[Path]:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (home / "key").exists():  # it is there where the answer to an earlier try was lost
        make_node_key(home, name)

    trusted = home / ".ca.crt"
    trusted.write_bytes(authority)
    request = {
        "name": name,
        "secret": secret,
        "public_key": (home / "key.pub").read_text(encoding="utf-8").strip(),
    }

    try:
        body = json.dumps(request).encode()
        answer = server_check.ask(address, "/fedcmi/join", trusted, now, body, patience=PATIENCE)
    finally:
        trusted.unlink()

    received = json.loads(answer.content)
    for file in FILES[1:]:
        write_atomically(home / file, str(received[file]))

    write_atomically(home / "ca.crt", authority)  # the last: with it the device has joined

    return [home / file for file in ("key", *FILES)]
