"""How each process of a deployment is.

Seen by the SuperLink, by the device itself, and in the last run's rounds.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_app.deploy import audit
from server_app.deploy.deployment import Device
from server_app.deploy.reports import read_reports
from server_app.deploy.site import Site


@dataclass(frozen=True)
class Status:
    """One process."""

    name: str
    pid: int | None = None
    """In a rehearsal; None: it does not run, or elsewhere."""
    registered: bool | None = None
    """Whether the SuperLink knows the device's key; None: nobody can say."""
    online: bool = False
    """The process answers; or the SuperLink hears the device, of whose end it learns after about
    a minute."""
    seen: float | None = None
    """Seconds since the server last heard it; None: never."""
    version: str | None = None
    """Of this project, on the device; this and the next come with its reports."""
    clock_difference: float | None = None
    """Seconds by which its clock is ahead of the server's."""
    disk_free: float | None = None
    """Bytes."""
    data: str | None = None
    """Fingerprint of its prepared data."""
    refusal: str | None = None
    """Why its reply was last refused, in the last run."""
    note: str = ""
    """What it says is wrong; in a rehearsal the last line of its log."""


def device_statuses(site: Site, up: bool) -> list[Status]:
    """Return how each active device is.

    Parameters
    ----------
    site
        Where.
    up
        Whether the SuperLink answers.

    Returns
    -------
    One for each, in order.
    """
    registered = site.registered() if up and site.deployment.secure else {}
    reports, records, now = read_reports(site), last_records(site), time.time()
    found = []
    for node in site.deployment.active:
        known = registered.get(node.name)
        received, report = reports.get(node.name, (None, None))
        times = [
            moment
            for moment in (received, known.last_seen if known else None)
            if moment is not None
        ]
        found.append(
            Status(
                node.name,
                registered=known is not None if up and site.deployment.secure else None,
                online=known is not None and known.online,
                seen=max(0.0, now - max(times)) if times else None,
                version=report.version if report else None,
                clock_difference=report.clock_difference if report else None,
                disk_free=report.disk_free if report else None,
                data=report.data if report else None,
                refusal=last_refusal(records, node),
                note=report.note if report else "",
            )
        )

    return found


def last_records(site: Site) -> list[dict[str, Any]]:
    """Return the records of the rounds of the run that was last begun here."""
    runs = [entry["run_dir"] for entry in audit.entries(site.state) if entry["what"] == "run"]
    try:
        text = (Path(runs[-1]) / "metrics.jsonl").read_text(encoding="utf-8") if runs else ""
    except OSError:  # it has been moved away, or has no round yet
        return []

    whole = text[: text.rfind("\n") + 1]  # without a line that is still being written

    return [json.loads(line) for line in whole.splitlines()]


def last_refusal(records: Sequence[Mapping[str, Any]], node: Device) -> str | None:
    """Return the newest reason for which a device's reply was refused, with the round.

    None: it never was.
    """
    mentions = re.compile(
        rf"\bpartition {node.partition_id}\b|(?<![\w-]){re.escape(node.name)}(?![\w-])"
    )
    for record in reversed(records):
        for line in record["refused"]:
            if mentions.search(line):
                return f"round {record['round']}: {line}"

    return None
