"""The kit's units, judged by systemd's own tools, and its containers."""

import re
import subprocess
from pathlib import Path

import pytest
from sites import make_site, require

from server_app.deploy.kit import NODE_UNIT, PROXY_UNIT, REGISTRAR_UNIT, SUPERLINK_UNIT
from server_app.deploy.services import DEVICE_PROGRAMS
from server_app.deploy.units import Unit, systemd_unit

LARGEST_EXPOSURE = 4.0
"""Of 10, as systemd-analyze counts: below it a service is "OK"."""


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all units, their programs where this machine has some."""
    require("systemd-analyze", "systemd")
    root = tmp_path_factory.mktemp("units")
    kit = make_site(root).kit
    for path in [*(kit / "server").glob("*.service"), kit / "nodes" / "edge-0" / NODE_UNIT]:
        text = path.read_text(encoding="utf-8").replace(f"{DEVICE_PROGRAMS}/fedcmi", "/bin/true")
        (root / path.name).write_text(re.sub("User=.*", "User=daemon", text), encoding="utf-8")
    return root


UNITS = [SUPERLINK_UNIT, PROXY_UNIT, REGISTRAR_UNIT, NODE_UNIT]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_a_unit_without_a_word(units: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(units / name)], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("name", UNITS)
def test_a_service_is_exposed_little(units: Path, name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(units / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) < LARGEST_EXPOSURE, done.stdout


def test_a_low_port_is_the_only_right_that_is_given() -> None:
    text = systemd_unit(Unit("proxy", "somebody", ["/usr/sbin/nginx"], port=443))
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in text
    assert "CapabilityBoundingSet=\n" in systemd_unit(
        Unit("proxy", "somebody", ["/usr/sbin/nginx"], port=8000)
    )


def test_containers_run_without_root_and_rights(tmp_path: Path) -> None:
    text = (make_site(tmp_path).kit / "nodes" / "edge-0" / "Containerfile").read_text(
        encoding="utf-8"
    )
    for option in ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--user"):
        assert option in text
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
