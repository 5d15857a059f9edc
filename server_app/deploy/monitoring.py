"""What a monitoring system needs: where to ask, when to wake somebody, and a dashboard."""

import json
from pathlib import Path
from typing import Any

ALERTS = (
    ("FedcmiServerDown", "up{job='fedcmi'} == 0", "5m", "The registrar does not answer."),
    ("FedcmiSuperLinkDown", "fedcmi_superlink_up == 0", "5m", "The SuperLink does not answer."),
    (
        "FedcmiDeviceAway",
        "fedcmi_device_online == 0",
        "1h",
        "{{ $labels.device }} has not been heard for an hour.",
    ),
    (
        "FedcmiClock",
        "abs(fedcmi_device_clock_seconds) > 3",
        "10m",
        "The clock of {{ $labels.device }} is wrong.",
    ),
    (
        "FedcmiDeviceDisk",
        "fedcmi_device_disk_free_bytes < 1e9",
        "10m",
        "{{ $labels.device }} has under 1 GB free.",
    ),
    (
        "FedcmiCertificate",
        "fedcmi_certificate_days < 30",
        "1h",
        "{{ $labels.file }} ends within 30 days.",
    ),
    (
        "FedcmiRefusals",
        "increase(fedcmi_refusals_total[1h]) > 10",
        "0m",
        "Many replies are refused.",
    ),
)
"""Name, expression, how long it has to hold, and what it means."""
PANELS = (
    ("Accuracy", "fedcmi_accuracy", "percentunit"),
    ("Round", "fedcmi_round", "none"),
    ("Seconds of a round", "fedcmi_round_seconds", "s"),
    ("Replies used", "fedcmi_replies", "none"),
    ("Replies refused", "increase(fedcmi_refusals_total[1h])", "none"),
    ("Bytes of a round", "fedcmi_round_bytes", "bytes"),
    ("Devices online", "sum(fedcmi_device_online)", "none"),
    ("Clock differences", "fedcmi_device_clock_seconds", "s"),
    ("Days to the end of certificates", "fedcmi_certificate_days", "d"),
)
"""Title, expression and unit."""


def write_monitoring(folder: Path, registrar: str) -> None:
    """Write ``prometheus.yml``, ``alerts.yml`` and ``dashboard.json``.

    Parameters
    ----------
    folder
        Made.
    registrar
        "host:port" of the metrics.
    """
    folder.mkdir()
    scrape = {"job_name": "fedcmi", "static_configs": [{"targets": [registrar]}]}
    prometheus = {"rule_files": ["alerts.yml"], "scrape_configs": [scrape]}
    rules = [
        {"alert": name, "expr": expression, "for": duration, "annotations": {"summary": meaning}}
        for name, expression, duration, meaning in ALERTS
    ]
    files = {
        "prometheus.yml": prometheus,
        "alerts.yml": {"groups": [{"name": "fedcmi", "rules": rules}]},
        "dashboard.json": {
            "title": "FedCMI",
            "schemaVersion": 39,
            "panels": [*map(_panel, range(len(PANELS)))],
        },
    }
    for name, content in files.items():  # JSON is YAML
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _panel(place: int) -> dict[str, Any]:
    title, expression, unit = PANELS[place]
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": title,
        "gridPos": {"x": 8 * (place % 3), "y": 8 * (place // 3), "w": 8, "h": 8},
        "targets": [{"expr": expression, "refId": "A"}],
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
    }
