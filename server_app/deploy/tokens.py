"""Tokens by which a device joins: good for one device, one key and a time.

The server keeps only their hashes.
"""

import hashlib
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.machine.locks import locked

FILE = "tokens.json"
PATIENCE = 10.0
"""Seconds to wait for another process that changes tokens."""
HOURS = 24.0
"""How long a token is good for unless somebody says otherwise."""


class TokenError(ValueError):
    """A token that lets nobody in; the text says why and what to do."""


@dataclass(frozen=True)
class Token:
    """What a joining device needs before it knows its server."""

    name: str
    """The device's."""
    address: str
    """Of the server, "host:port"."""
    authority: str
    """SHA-256 of the server's ``ca.crt``, by which the device knows the server."""
    secret: str
    """By which the server knows the device."""

    def __str__(self) -> str:
        """Return it in one word, to be copied."""
        return urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode().rstrip("=")


def read_token(text: str) -> Token:
    """Read a token.

    Parameters
    ----------
    text
        What ``fedcmi deploy token`` printed.

    Returns
    -------
    The token.

    Raises
    ------
    TokenError
        It is none, or not all of one.
    """
    try:
        values = json.loads(urlsafe_b64decode(text.strip() + "=" * (-len(text.strip()) % 4)))
        token = Token(**values)
    except (ValueError, TypeError) as error:
        raise TokenError(
            "not a token, or not all of it; copy it whole from `fedcmi deploy token`."
        ) from error

    if not all(isinstance(value, str) for value in values.values()):
        raise TokenError("not a token of this project; copy it whole from `fedcmi deploy token`.")

    return token


def issue(state: Path, name: str, address: str, authority: str, hours: float = HOURS) -> Token:
    """Make a token; earlier ones of the same device are void.

    Parameters
    ----------
    state
        The server's directory.
    name
        The device's.
    address
        Of the server.
    authority
        SHA-256 of its ``ca.crt``.
    hours
        How long it is good for.

    Returns
    -------
    The token, which is kept nowhere.
    """
    secret = secrets.token_urlsafe(32)
    entry = {"hash": _hash(secret), "expires": time.time() + 3600 * hours, "key": None}
    with _locked(state):
        _write(state, _read(state) | {name: entry})

    return Token(name, address, authority, secret)


def withdraw(state: Path, name: str) -> None:
    """Make a device's token void."""
    with _locked(state):
        kept = _read(state)
        if kept.pop(name, None) is not None:
            _write(state, kept)


def redeem(state: Path, name: str, secret: str, public_key: str) -> None:
    """Accept a token, once; a device whose answer was lost may ask again with the same key.

    Parameters
    ----------
    state
        The server's directory.
    name
        The device's.
    secret
        What it shows.
    public_key
        OpenSSH line of the key that it wants to be known by.

    Raises
    ------
    TokenError
        Unknown, used with another key, or expired.
    """
    again = f"; `fedcmi deploy token DIR {name}` on the server makes a new one."
    with _locked(state):
        kept = _read(state)
        entry = kept.get(name)
        if entry is None or not hmac.compare_digest(entry["hash"], _hash(secret)):
            raise TokenError(
                f"{name}: this token is not known, or a newer one has been made{again}"
            )
        if entry["key"] not in (None, public_key):
            raise TokenError(
                f"{name}: this token has been used, by a device with another key{again}"
            )
        if entry["key"] is None and time.time() > entry["expires"]:
            raise TokenError(f"{name}: this token has expired{again}")

        _write(state, kept | {name: entry | {"key": public_key}})


def _locked(state: Path) -> AbstractContextManager[None]:
    return locked(state / "tokens.lock", PATIENCE)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _read(state: Path) -> dict[str, dict[str, Any]]:
    path = state / FILE
    kept: dict[str, dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    )
    return kept


def _write(state: Path, kept: dict[str, dict[str, Any]]) -> None:
    write_atomically(state / FILE, json.dumps(kept, indent=1) + "\n")
