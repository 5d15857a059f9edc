"""The audit log of a deployment.

Who did what to whom, and when, in JSON lines that are only ever added to.
"""

import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "audit.jsonl"


def note(state: Path, what: str, *, who: str | None = None, **details: Any) -> None:  # noqa: ANN401
    """Add a line and wait until it is on the disk.

    Parameters
    ----------
    state
        Directory of the log.
    what
        One word, like "revoke".
    who
        Who did it; None: the user who runs this.
    **details
        More keys; no secrets.
    """
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": who or _user(),
        "what": what,
        **details,
    }
    line = json.dumps(entry) + "\n"
    handle = os.open(state / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line.encode())  # one write: lines of two processes do not mix
        os.fsync(handle)
    finally:
        os.close(handle)


def entries(state: Path) -> list[dict[str, Any]]:
    """Return what was noted, the oldest first; a torn last line, of a power cut, is left out."""
    path = state / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [entry for line in lines if (entry := _read(line)) is not None]


def _read(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None

    return entry if isinstance(entry, dict) else None


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # an account without a name, in a container
        return f"uid {os.getuid()}"
