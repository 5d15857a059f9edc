"""Metrics for Prometheus, in its text format.

The last run's rounds, the devices, and the certificates.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server_app.deploy import renewal
from server_app.deploy.certificates import days_left, read_certificates
from server_app.deploy.site import Site
from server_app.deploy.status import Status, device_statuses, last_records
from server_app.launch.flower_cli import is_healthy

REASONS = ("error", "layout", "missing", "norm", "other")
"""What a refusal is counted as; an error's text is a device's, and makes no label."""


@dataclass(frozen=True)
class Sample:
    """One number."""

    name: str
    value: float
    labels: Mapping[str, str]


def metrics(site: Site) -> str:
    """Return all metrics of a deployment.

    Parameters
    ----------
    site
        Where.

    Returns
    -------
    Text in Prometheus's exposition format.
    """
    up = is_healthy(site.superlink, site.inner_authority)
    samples = [Sample("fedcmi_superlink_up", float(up), {})]
    samples += _certificates(site)
    for status in device_statuses(site, up):
        samples += _device(status)

    samples += round_samples(last_records(site))

    return exposition(samples)


def exposition(samples: Iterable[Sample]) -> str:
    """Return samples as Prometheus reads them.

    Parameters
    ----------
    samples
        Of any metrics; those of one metric come out together.

    Returns
    -------
    The text.
    """
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        if math.isfinite(sample.value):
            grouped.setdefault(sample.name, []).append(sample)

    lines = []
    for name, group in grouped.items():
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        lines += [f"{name}{_labels(sample.labels)} {sample.value:.17g}" for sample in group]

    return "\n".join(lines) + "\n"


def round_samples(records: list[dict[str, Any]]) -> list[Sample]:
    """Return what the rounds of a run say.

    Parameters
    ----------
    records
        Of all rounds so far.

    Returns
    -------
    Samples; none before the first round.
    """
    if not records:
        return []

    last = records[-1]
    replies = {partition for owners in last["owners"].values() for partition in owners}
    samples = [
        Sample("fedcmi_round", last["round"], {}),
        Sample("fedcmi_round_seconds", last["seconds"] or math.nan, {}),
        Sample("fedcmi_replies", len(replies), {}),
        Sample("fedcmi_failed_rounds_total", sum(bool(record["failed"]) for record in records), {}),
    ]
    for direction in ("down", "up"):
        size = sum(last[f"bytes_{direction}"].values())
        samples.append(Sample("fedcmi_round_bytes", size, {"direction": direction}))

    for prediction, accuracy in last["accuracy"].items():
        if accuracy is not None:
            samples.append(Sample("fedcmi_accuracy", accuracy, {"prediction": prediction}))

    refused = [reason_of(line) for record in records for line in record["refused"]]
    samples += [
        Sample("fedcmi_refusals_total", refused.count(reason), {"reason": reason})
        for reason in REASONS
    ]

    return samples


def reason_of(line: str) -> str:
    """Return what kind of refusal a line of ``refused`` tells of: one of ``REASONS``."""
    if line.startswith("No "):  # reply, or evaluation, of a node
        return "missing"

    said = line.partition(" refused: ")[2]  # before it a name stands, which may be anything
    return next((reason for reason in ("error", "layout", "norm") if reason in said), "other")


def _certificates(site: Site) -> list[Sample]:
    found = []
    for name in renewal.certificate_files(site):
        certificate = read_certificates(site.kit / "server" / name)[0]
        found.append(Sample("fedcmi_certificate_days", days_left(certificate), {"file": name}))

    return found


def _device(status: Status) -> list[Sample]:
    labels = {"device": status.name}
    samples = [Sample("fedcmi_device_online", float(status.online), labels)]
    numbers = {
        "fedcmi_device_seen_seconds": status.seen,
        "fedcmi_device_clock_seconds": status.clock_difference,
        "fedcmi_device_disk_free_bytes": status.disk_free,
    }
    samples += [Sample(name, value, labels) for name, value in numbers.items() if value is not None]
    if status.version is not None:
        samples.append(Sample("fedcmi_device_version", 1.0, {**labels, "version": status.version}))

    return samples


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""

    escaped = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
