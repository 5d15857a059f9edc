"""The one place that writes prepared directories: once, completely, or not at all.

A directory is built under another name and renamed when it is complete, under a lock that ends
with the process that holds it. So a directory at its final name is finished, whatever was killed
when.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError
from fedcmi_flwr.data.schema import DatasetSpec, SchemaError, read_spec, write_spec
from fedcmi_flwr.machine.atomic_files import new_directory
from fedcmi_flwr.machine.locks import LockedError, locked

Settings = Mapping[str, Any]
"""Every setting of a preparation, seed and modalities included; JSON values."""
LOCK_TIMEOUT = 1800.0
"""Seconds to wait for another process that prepares the same directory."""


def write_prepared(
    out: Path, name: str, settings: Settings, build: Callable[[Path], DatasetSpec]
) -> Path:
    """Make a prepared directory, unless it is there already with the same settings.

    Several processes may ask for the same directory at once: one builds, the others wait for it.
    The raw data are not compared: to prepare changed raw data, remove the directory first.

    Parameters
    ----------
    out
        The final path; its parents are made as needed.
    name
        The data set's name, which an existing directory must have too.
    settings
        What an existing directory must have been made with.
    build
        Writes the splits below the directory it is given, and returns what ``dataset.json`` will
        say.

    Returns
    -------
    The finished directory, absolute.

    Raises
    ------
    PrepError
        At ``out`` there is something else: nothing is touched.
    """
    out = out.resolve()
    if _is_finished(out, name, settings):
        return out

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f"{out.name}.lock")
    try:
        with locked(lock, LOCK_TIMEOUT):
            if not _is_finished(out, name, settings):
                with new_directory(out) as partial:
                    # What a killed call left there is replaced: the lock is ours
                    write_spec(partial, build(partial))
    except LockedError as error:
        raise PrepError(
            f"{out}: another process has been preparing it for more than {LOCK_TIMEOUT:.0f} s "
            f"({lock} is held). Wait for it, or end it."
        ) from error

    return out


def _is_finished(out: Path, name: str, settings: Settings) -> bool:
    """Tell a directory that is finished from one to be made.

    Anything else at ``out`` is an error.
    """
    advice = "Remove it, or choose another output directory."
    if not out.exists():
        return False
    if not out.is_dir():
        raise PrepError(f"{out}: is a file, expected a directory or nothing. {advice}")

    if not (out / "dataset.json").is_file():
        if any(out.iterdir()):
            raise PrepError(
                f"{out}: is not empty and no prepared directory (it has no dataset.json). {advice}"
            )
        return False

    try:
        spec = read_spec(out)
    except SchemaError as error:
        raise PrepError(f"{error} {advice}") from error

    found = {"name": spec.name, **spec.settings}
    asked = {"name": name, **json.loads(json.dumps(dict(settings)))}
    differing = [
        key for key in sorted(found.keys() | asked.keys()) if found.get(key) != asked.get(key)
    ]
    if differing:
        what = "; ".join(
            f"{key} = {found.get(key)!r}, asked for {asked.get(key)!r}" for key in differing
        )
        raise PrepError(f"{out}: was prepared with other settings: {what}. {advice}")

    return True
