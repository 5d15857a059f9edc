"""The kit's units, judged by systemd's own tools, and its containers."""

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from sites import make_site, require

from server_app.deploy.service_units import (
    NODE_UNIT,
    PROXY_UNIT,
    REGISTRAR_ADDRESS,
    REGISTRAR_UNIT,
    SUPERLINK_UNIT,
)
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


def test_a_unit_s_own_command_runs_with_the_unit_s_limits(tmp_path: Path) -> None:
    """The registrar's, without root, capabilities and new rights.

    It tells systemd that it is ready.
    """
    require("setpriv", "util-linux")
    host, _, port = REGISTRAR_ADDRESS.rpartition(":")
    with socket.socket() as probe:
        if probe.connect_ex((host, int(port))) == 0:
            pytest.skip(f"port {port}, the unit's own, is taken on this machine")
    kit = make_site(tmp_path).kit
    unit = (kit / "server" / REGISTRAR_UNIT).read_text(encoding="utf-8")
    said = dict(
        line.split("=", 1)
        for line in unit.splitlines()
        if "=" in line and not line.startswith("Environment")
    )
    variables = dict(found.split("=", 1) for found in re.findall('Environment="(.*)"', unit))
    assert (said["NoNewPrivileges"], said["CapabilityBoundingSet"], said["User"] != "root") == (
        "true",
        "",
        True,
    )

    limits = ["prlimit", f"--nofile={said['LimitNOFILE']}", f"--core={said['LimitCORE']}"]
    rights = ["setpriv", "--no-new-privs", "--inh-caps=-all"]
    if os.geteuid() == 0:  # otherwise nobody has rights that could be taken
        rights += ["--bounding-set=-all"]
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(float(said["TimeoutStartSec"]))
        environment = {**variables, "NOTIFY_SOCKET": address, "HOME": str(tmp_path)}
        command = [*limits, *rights, *shlex.split(said["ExecStart"])]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            answer = httpx.get(f"http://{REGISTRAR_ADDRESS}/health", trust_env=False, timeout=30.0)
            memory = psutil.Process(process.pid).memory_info().rss
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=60.0)
    assert (answer.status_code, answer.text) == (200, "ok\n"), output
    assert "NoNewPrivs:\t1" in status
    assert re.search(r"CapBnd:\t0+\n", status) or os.geteuid() != 0
    assert said["MemoryMax"] == "1G"
    assert memory < 2**30
