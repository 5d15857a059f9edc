"""The kit's units under a running systemd, by the commands of the kit's own guides.

A machine in namespaces (``tests/helpers/booted.py``) is the server, and one of its devices too.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from booted import PATIENCE, Booted

from server_app.deploy.service_units import (
    NODE_UNIT,
    PROXY_UNIT,
    REGISTRAR_ADDRESS,
    REGISTRAR_UNIT,
    SUPERLINK_UNIT,
)
from server_app.run.directory import read_metrics

REPOSITORY = Path(__file__).parents[3]
UNITS = (SUPERLINK_UNIT, PROXY_UNIT, REGISTRAR_UNIT, NODE_UNIT)
HOME = "/srv/fedcmi"
KIT = f"{HOME}/deployment"
RUN = f"{HOME}/deployment/runs/first"
NODES = f"""[superlink]
address = "localhost:443"
data = "{HOME}/data"

[[node]]
name = "edge-1"
modalities = ["audio", "visual"]
data = "{HOME}/data"
"""
SMALL = "--set num-server-rounds=2 --set local-epochs=1 --set wait-timeout=300"
PREPARE = f"""
useradd --system --home-dir {HOME} fedcmi
ln -s '{REPOSITORY}' /opt/fedcmi
mkdir -p {HOME}
chown -R fedcmi {HOME}
"""
WATCHED = 90
"""Seconds of silence after which systemd starts the registrar again, here; it gives a sign of life
every 60."""
SHORTER_WATCH = f"""
mkdir -p /etc/systemd/system/{REGISTRAR_UNIT}.d
printf '[Service]\\nWatchdogSec={WATCHED}\\nRestartSec=1\\n' \
    > /etc/systemd/system/{REGISTRAR_UNIT}.d/test.conf
"""
NET_BIND = 1 << 10
"""CAP_NET_BIND_SERVICE, as the kernel counts."""


def block(guide: str) -> str:
    """Return the commands of a guide's part on services, up to the first service that answers."""
    return next(
        found
        for found in re.findall(r"^```sh\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
        if "systemctl enable" in found
    )


def until(what: str, is_so: Callable[[], bool], machine: Booted) -> None:
    """Wait for something, and show the journal when it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come\n{machine.journal()}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Iterator[Booted]:
    """Return the machine, with all services started and the device in."""
    machine = Booted(tmp_path_factory.mktemp("machine"))
    try:
        _set_up(machine, av_digits_dir)
        yield machine
    finally:
        machine.stop()


def _set_up(machine: Booted, data: Path) -> None:
    home = machine.files / HOME.lstrip("/")
    home.mkdir(parents=True)
    shutil.copytree(data, home / "data")
    (home / "nodes.toml").write_text(NODES, encoding="utf-8")
    machine.run(PREPARE)
    tried = machine.tried("fedcmi --version", user="fedcmi")
    if tried.returncode != 0:
        pytest.skip(f"another user than root cannot run this checkout: {tried.stderr}")

    machine.run(f"fedcmi deploy init {KIT} --nodes {HOME}/nodes.toml", user="fedcmi")
    machine.run(SHORTER_WATCH)
    guide = (machine.files / KIT.lstrip("/") / "README.md").read_text(encoding="utf-8")
    *starting, asking = block(guide).splitlines()
    machine.run("\n".join(starting))
    assert asking.startswith("curl ")
    until("the server", lambda: machine.tried(asking).returncode == 0, machine)

    token = machine.run(f"fedcmi deploy token {KIT} edge-1", user="fedcmi")
    guide = (machine.files / KIT.lstrip("/") / "nodes" / "edge-1" / "README.md").read_text(
        encoding="utf-8"
    )
    account, *steps = block(guide).splitlines()
    assert account.startswith("sudo useradd ")  # the server's, on this one machine
    machine.run("\n".join(steps), given=token)
    until("the device", lambda: "SuperNode ID" in machine.journal(NODE_UNIT), machine)


@pytest.mark.parametrize("name", UNITS)
def test_a_service_runs_with_its_unit_s_rights(machine: Booted, name: str) -> None:
    assert machine.shown(name, "ActiveState") == "active"
    main = machine.shown(name, "MainPID")
    status = machine.run(f"cat /proc/{main}/status")
    # Inherited, permitted, effective, bounding and ambient
    rights = [int(found, 16) for found in re.findall(r"^Cap\w+:\t(\w+)$", status, re.M)]
    assert rights == 5 * [NET_BIND if name == PROXY_UNIT else 0]
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    assert re.search(r"^Seccomp:\t2$", status, re.M)
    assert machine.run(f"stat --format %U /proc/{main}").strip() == "fedcmi"


@pytest.mark.parametrize("name", UNITS)
def test_a_service_writes_where_it_may_and_nowhere_else(machine: Booted, name: str) -> None:
    mounts = machine.run(f"cat /proc/{machine.shown(name, 'MainPID')}/mounts").splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "ro" in options["/"]
    allowed = "/etc/fedcmi" if name == NODE_UNIT else KIT if name != PROXY_UNIT else f"{KIT}/server"
    assert "rw" in options[allowed]
    assert "rw" in options["/var/lib/fedcmi"]


@pytest.mark.parametrize(("name", "limit"), [(PROXY_UNIT, 512 << 20), (REGISTRAR_UNIT, 1 << 30)])
def test_the_kernel_bounds_a_service_s_memory(machine: Booted, name: str, limit: int) -> None:
    assert machine.shown(name, "MemoryMax") == str(limit)
    group = machine.shown(name, "ControlGroup").lstrip("/")
    places = [
        f"/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes",
        f"/sys/fs/cgroup/{group}/memory.max",
    ]
    found = machine.tried(f"cat {' '.join(places)} 2>/dev/null").stdout.split()
    if not found:
        pytest.skip("this machine's control groups bound no memory below those of the test")

    assert found == [str(limit)]


def test_a_killed_service_is_started_again(machine: Booted) -> None:
    machine.run(f"systemctl kill --signal=KILL {PROXY_UNIT}")
    until("the restart", lambda: machine.shown(PROXY_UNIT, "NRestarts") != "0", machine)
    until(
        "the proxy's return",
        lambda: machine.tried("fedcmi deploy check /etc/fedcmi", user="fedcmi").returncode == 0,
        machine,
    )


def test_devices_train_while_a_silent_registrar_is_started_again(machine: Booted) -> None:
    """It is stopped as a process that hangs; systemd waits for its next sign of life, and no
    longer.
    """
    machine.run(f"systemctl kill --kill-whom=main --signal=STOP {REGISTRAR_UNIT}")
    machine.run(f"fedcmi deploy run {KIT} --run-dir {RUN} {SMALL}", user="fedcmi")
    *_, last = read_metrics(machine.files / RUN.lstrip("/"))
    assert (last["round"], last["owners"]["shared"], last["failed"]) == (2, [0], "")

    until("the restart", lambda: machine.shown(REGISTRAR_UNIT, "NRestarts") != "0", machine)
    assert "Watchdog timeout" in machine.journal(REGISTRAR_UNIT)
    answers = f"curl --fail http://{REGISTRAR_ADDRESS}/health"
    until("its return", lambda: machine.tried(answers).stdout == "ok\n", machine)


def test_the_proxy_shows_a_renewed_certificate_after_a_reload(machine: Booted) -> None:
    before, main = machine.run(f"cat {KIT}/server/server.pem"), machine.shown(PROXY_UNIT, "MainPID")
    machine.run(f"fedcmi deploy renew {KIT}", user="fedcmi")
    machine.run(f"systemctl reload {PROXY_UNIT}")
    assert machine.run(f"cat {KIT}/server/server.pem") != before
    assert machine.shown(PROXY_UNIT, "MainPID") == main
    until(
        "the new certificate",
        lambda: _certificate(machine) in machine.run(f"cat {KIT}/server/server.pem"),
        machine,
    )


def _certificate(machine: Booted) -> str:
    """Return the certificate that the proxy shows, as PEM."""
    ask = "import ssl; print(ssl.get_server_certificate(('localhost', 443)), end='')"
    return machine.run(f'/opt/fedcmi/.venv/bin/python -c "{ask}"')


def test_the_server_sees_its_device(machine: Booted) -> None:
    """As soon as the SuperLink answers and the device's next report has come: its last one may have
    met the registrar that was silent.
    """

    def device() -> dict[str, object]:
        said = machine.run(f"fedcmi deploy status {KIT} --json", user="fedcmi")
        found: dict[str, dict[str, object]] = {one["name"]: one for one in json.loads(said)}
        return found["edge-1"]

    def is_seen() -> bool:
        seen = device()
        return bool(seen["online"]) and seen["version"] is not None

    until("the device and its report", is_seen, machine)
    seen = device()
    assert (seen["registered"], seen["version"]) == (True, version("fedcmi-flwr"))
