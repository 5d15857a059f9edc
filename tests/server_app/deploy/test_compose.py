"""The kit's Compose file: what the units say, in containers that may do little."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sites import FakeControl
from typer.testing import CliRunner

from server_app.commands.main import app
from server_app.deploy.compose import NETWORK
from server_app.deploy.services import DEVICE_HOME, DEVICE_STATE

NODES = """[superlink]
address = "hub.example.org:8000"
data = "/srv/test data"

[[node]]
name = "edge-both"
modalities = ["audio", "visual"]
data = "/data/both, and: more"
device = "cuda"
personal = "/srv/personal"
pretrained = "audio=/srv/trunk"

[[node]]
name = "edge-audio"
modalities = ["audio"]
data = "/data/audio"
"""
DEVICES = ("edge-both", "edge-audio")
SERVER = ("superlink", "proxy", "registrar")


def make(directory: Path, text: str = NODES, *options: str) -> Path:
    """Make a deployment by its command."""
    nodes = directory.with_suffix(".toml")
    nodes.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(
        app, ["deploy", "init", str(directory), "--nodes", str(nodes), *options]
    )
    assert done.exit_code == 0, done.output
    return directory


def read(kit: Path) -> dict[str, Any]:
    """Return a deployment's Compose file, as YAML has it."""
    loaded: dict[str, Any] = yaml.safe_load((kit / "compose" / "compose.yaml").read_text())
    return loaded


def unit(path: Path) -> dict[str, str]:
    """Return what a unit says, of keys that it has once."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a deployment's directory."""
    return make(tmp_path_factory.mktemp("compose") / "edge deployment")


@pytest.fixture(scope="module")
def services(kit: Path) -> dict[str, Any]:
    """Return the Compose file's services."""
    found: dict[str, Any] = read(kit)["services"]
    return found


def test_it_is_what_the_specification_of_compose_calls_one(kit: Path) -> None:
    """Checked by the schema of the specification, which comes with check-jsonschema."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--no-cache",
        "--builtin-schema",
        "vendor.compose-spec",
    ]
    file = kit / "compose" / "compose.yaml"
    done = subprocess.run([*command, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

    broken = kit.parent / "broken.yaml"
    broken.write_text(file.read_text().replace("read_only: true", "read_only: 7"))
    assert subprocess.run([*command, str(broken)], capture_output=True).returncode == 1


def test_there_are_the_server_s_processes_and_the_devices(services: dict[str, Any]) -> None:
    assert set(services) == {NETWORK, *SERVER, *DEVICES}


def test_no_service_has_rights_that_it_does_not_need(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        user, _, group = service["user"].partition(":")
        assert int(user) != 0
        assert int(group) != 0


def test_every_service_that_serves_says_whether_it_is_well(
    kit: Path, services: dict[str, Any]
) -> None:
    asked = {name: services[name]["healthcheck"]["test"] for name in (*SERVER, *DEVICES)}
    server = kit / "server"
    assert asked["superlink"][-3:] == [
        "--cacert", str(server / "inner" / "ca.crt"), "https://127.0.0.1:39701/health",
    ]  # fmt: skip
    assert asked["proxy"][-3:] == [
        "--cacert", str(server / "ca.crt"), "https://localhost:8000/health",
    ]  # fmt: skip
    assert asked["registrar"][-1] == "http://127.0.0.1:39702/health"
    for name in DEVICES:
        text = (kit / "nodes" / name / "Containerfile").read_text(encoding="utf-8")
        (health,) = [line for line in text.splitlines() if line.startswith("HEALTHCHECK ")]
        assert asked[name] == ["CMD", *health.partition(" CMD ")[2].split()]


def test_services_run_the_commands_of_the_units(kit: Path, services: dict[str, Any]) -> None:
    units = {name: kit / "server" / f"fedcmi-{name}.service" for name in SERVER}
    units |= {name: kit / "nodes" / name / "fedcmi-supernode.service" for name in DEVICES}
    for name, path in units.items():
        said = unit(path)
        program, *arguments = shlex.split(said["ExecStart"])
        assert services[name]["command"] == [Path(program).name, *arguments]
        if said["MemoryMax"].endswith(("M", "G")):
            assert services[name]["mem_limit"] == said["MemoryMax"].lower()

        variables = services[name].get("environment", {})
        text = path.read_text(encoding="utf-8")
        assert [
            key for key in variables if f'Environment="{key}={variables[key]}"' not in text
        ] == []


def test_only_what_devices_need_is_reached_from_outside(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {NETWORK: ["8000:8000"]}
    for name in SERVER:
        assert services[name]["network_mode"] == f"service:{NETWORK}"

    for name in DEVICES:
        assert services[name]["networks"] == ["devices"]
        assert services[name]["depends_on"] == {"proxy": {"condition": "service_healthy"}}

    assert services[NETWORK]["networks"]["devices"] == {"aliases": ["hub.example.org"]}


def test_devices_have_no_way_out_of_their_network(kit: Path) -> None:
    assert read(kit)["networks"] == {"outside": {}, "devices": {"internal": True}}


def test_the_proxy_sees_its_own_files_and_its_key_as_a_secret(
    kit: Path, services: dict[str, Any]
) -> None:
    server = kit / "server"
    secret = read(kit)["secrets"]
    assert secret == {"server.pem": {"file": str(server / "server.pem")}}
    assert services["proxy"]["secrets"] == [
        {"source": "server.pem", "target": str(server / "server.pem")}
    ]
    mounted = {mount["source"] for mount in services["proxy"]["volumes"]}
    assert mounted == {str(server / name) for name in ("nginx.conf", "ca.crt", "inner/ca.crt")}
    assert all(mount["read_only"] for mount in services["proxy"]["volumes"])
    configuration = (server / "nginx.conf").read_text(encoding="utf-8")
    named = [part for part in configuration.split('"') if part.startswith(str(server))]
    given = {*mounted, str(server / "server.pem")}
    missing = [
        path
        for path in named
        if path not in given and Path(path).parent not in map(Path, services["proxy"]["tmpfs"])
    ]
    assert missing == []


def test_what_must_last_is_in_volumes_and_data_are_read_only(
    kit: Path, services: dict[str, Any]
) -> None:
    whole = read(kit)
    used = set()
    for name in DEVICES:
        mounts = {mount["target"]: mount for mount in services[name]["volumes"]}
        for place in (DEVICE_HOME, DEVICE_STATE):
            assert mounts[str(place)]["type"] == "volume"
            used.add(mounts[str(place)]["source"])

    assert set(whole["volumes"]) == used
    assert len(used) == 4
    both = {mount["source"]: mount for mount in services["edge-both"]["volumes"]}
    assert both["/data/both, and: more"]["read_only"]
    assert both["/srv/trunk"]["read_only"]
    assert "read_only" not in both["/srv/personal"]
    for name in ("superlink", "registrar"):
        assert {"source": str(kit), "target": str(kit)}.items() <= services[name]["volumes"][
            0
        ].items()

    binds = [
        mount
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    ]
    assert all(mount["source"] == mount["target"] for mount in binds)
    assert not any(mount["bind"]["create_host_path"] for mount in binds)


def test_only_who_trains_on_a_gpu_is_given_one(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "deploy" in service] == ["edge-both"]


def test_the_image_holds_the_wheel_and_nothing_else(kit: Path) -> None:
    assert {path.name for path in (kit / "compose").iterdir()} == {"compose.yaml", "Containerfile"}
    lines = (kit / "compose" / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("COPY ")] == ["COPY fedcmi_flwr-*.whl ./"]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    build = read(kit)["services"][NETWORK]["build"]
    assert build == {"context": ".", "dockerfile": "Containerfile"}


def test_a_low_port_is_given_without_a_capability(tmp_path: Path) -> None:
    services = read(make(tmp_path / "kit", NODES.replace(":8000", ":443")))["services"]
    assert services[NETWORK]["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": 443}
    assert services[NETWORK]["ports"] == ["443:443"]


@pytest.mark.parametrize("host", ["10.1.2.3", "127.0.0.1", "localhost"])
def test_without_a_name_there_is_none_and_the_guide_says_so(tmp_path: Path, host: str) -> None:
    kit = make(tmp_path / "kit", NODES.replace("hub.example.org", host))
    assert not (kit / "compose").exists()
    assert "no Compose file" in (kit / "README.md").read_text(encoding="utf-8")


def test_without_security_there_are_no_keys_and_no_registrar(tmp_path: Path) -> None:
    kit = make(tmp_path / "kit", NODES, "--insecure")
    whole = read(kit)
    assert "secrets" not in whole
    assert "registrar" not in whole["services"]
    home = next(
        mount
        for mount in whole["services"]["edge-audio"]["volumes"]
        if mount["target"] == str(DEVICE_HOME)
    )
    assert (home["source"], home["read_only"]) == (str(kit / "nodes" / "edge-audio"), True)


def test_devices_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeControl.install(monkeypatch)
    kit = make(tmp_path / "kit")
    more = ["deploy", "add", str(kit), "edge-new", "--modalities", "audio", "--data", "/data/new"]
    for arguments in (more, ["deploy", "revoke", str(kit), "edge-audio"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output

    assert set(read(kit)["services"]) == {NETWORK, *SERVER, "edge-both", "edge-new"}


def test_the_guide_has_the_commands(kit: Path) -> None:
    text = (kit / "README.md").read_text(encoding="utf-8")
    file = json.dumps(str(kit / "compose" / "compose.yaml")).replace('"', "'")
    assert f"docker compose -f {file} build" in text
    assert f"docker compose -f {file} up -d" in text
    assert "deploy join -" in text
