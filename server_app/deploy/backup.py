"""The server's deployment in one file, to be kept elsewhere or unpacked on another machine."""

import os
import sqlite3
import tarfile
import tempfile
from pathlib import Path

from server_app.deploy import audit, services
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.site import Site

LEFT_OUT = {"nginx", "flwr", "rehearsal", "runs", "proxy.pid"}
"""What is made again, or has a back-up of its own."""


def back_up(site: Site, file: Path) -> None:
    """Write a deployment's directory into an archive that only its owner can read.

    Services go on meanwhile.

    Parameters
    ----------
    site
        The real site.
    file
        A new one, ``.tar.gz``. It holds private keys.

    Raises
    ------
    DeploymentError
        There is such a file.
    """
    if file.exists():
        raise DeploymentError(f"{file}: exists already; give another name.")

    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as output, tarfile.open(fileobj=output, mode="w:gz") as archive:
        archive.add(site.kit, site.kit.name, filter=_kept)
        database = site.state / services.DATABASE
        if database.is_file():
            with tempfile.TemporaryDirectory(prefix="fedcmi-backup-") as name:
                copy = Path(name) / services.DATABASE
                _copy_database(database, copy)
                archive.add(copy, f"{site.kit.name}/server/{services.DATABASE}")

    audit.note(site.state, "backup", file=str(file.absolute()))


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = Path(member.name)
    # And its journal: it is copied by SQLite itself
    database = path.name.startswith(services.DATABASE)
    left_out = (
        database or any(part in LEFT_OUT for part in path.parts[1:]) or path.suffix == ".lock"
    )

    return None if left_out else member


def _copy_database(source: Path, copy: Path) -> None:
    """Copy a database that others write to, whole."""
    with (
        sqlite3.connect(f"file:{source}?mode=ro", uri=True) as connection,
        sqlite3.connect(copy) as target,
    ):
        connection.backup(target)
