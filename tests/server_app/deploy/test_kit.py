"""The deployment's directory.

Certificates that programs trust, keys that stay private, services that say what runs.
"""

import json
import shlex
import socket
import ssl
import tomllib
from pathlib import Path
from typing import Any

import edges
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.common.config import parse_config_args
from typer.testing import CliRunner

from fedcmi_flwr.config.node import read_node_config
from server_app.commands.main import app
from server_app.deploy.certificates import make_node_key
from server_app.deploy.deployment import Deployment, Device
from server_app.deploy.guide import for_the_server
from server_app.deploy.node_settings import read_settings
from server_app.deploy.rehearsal import Rehearsal
from server_app.deploy.services import supernode_command
from server_app.launch.start import resolve


def init(
    directory: Path, *options: str, address: str = "hub.example.org:8000", more: str = ""
) -> Any:
    nodes = directory.with_suffix(".toml")
    parts = {name: Path("/data") / name for name in edges.EDGES}
    nodes.write_text(
        edges.nodes_toml(Path("/srv/test data"), parts, address) + more, encoding="utf-8"
    )
    return CliRunner().invoke(
        app, ["deploy", "init", str(directory), "--nodes", str(nodes), *options]
    )


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a deployment's directory."""
    directory = tmp_path_factory.mktemp("kit") / "edge deployment"
    done = init(directory)
    assert done.exit_code == 0, done.output
    return directory


def exec_start(unit: Path) -> list[str]:
    """Return the arguments of a unit's command, as systemd splits them."""
    line = next(
        line
        for line in unit.read_text(encoding="utf-8").splitlines()
        if line.startswith("ExecStart=")
    )
    return shlex.split(line.removeprefix("ExecStart="))


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Do a TLS handshake in memory; raise what the client thinks of the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        done = 0
        for side in sides:
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done == 2:
            return
    raise AssertionError("the handshake does not end")


def contexts(kit: Path, authority: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(kit / "server" / "server.pem")
    return ssl.create_default_context(cafile=authority), server


@pytest.mark.parametrize("name", ["hub.example.org", "localhost", "127.0.0.1"])
def test_a_device_trusts_the_server_by_its_address(kit: Path, name: str) -> None:
    handshake(*contexts(kit, kit / "nodes" / "edge-audio" / "ca.crt"), name)


def test_a_device_does_not_trust_another_name_or_authority(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.com"):
        handshake(*contexts(kit, kit / "server" / "ca.crt"), "example.com")
    assert init(tmp_path / "other").exit_code == 0
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(*contexts(kit, tmp_path / "other" / "server" / "ca.crt"), "localhost")


def test_more_names_are_in_the_certificate(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.toml"
    text = edges.nodes_toml(
        Path("/srv"), {name: Path("/data") for name in edges.EDGES}, "10.1.2.3:8000"
    )
    nodes.write_text(
        text.replace("[superlink]", '[superlink]\nnames = ["hub", "fd00::7"]'), encoding="utf-8"
    )
    CliRunner().invoke(app, ["deploy", "init", str(tmp_path / "kit"), "--nodes", str(nodes)])
    certificate = x509.load_pem_x509_certificate(
        (tmp_path / "kit" / "server" / "server.pem").read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [
        "10.1.2.3",
        "hub",
        "fd00::7",
        "localhost",
        "127.0.0.1",
    ]


def test_private_keys_are_the_server_s_and_for_their_owner_only(kit: Path) -> None:
    keys = [kit / "server" / name for name in ("ca.key", "server.pem", "inner/server.key")]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert kit.stat().st_mode & 0o777 == 0o700
    files = [path for path in kit.rglob("*") if path.is_file()]
    assert {path for path in files if b"PRIVATE KEY" in path.read_bytes()} == set(keys)


def test_the_key_that_a_device_makes_is_of_the_kind_that_flower_takes(tmp_path: Path) -> None:
    line = make_node_key(tmp_path, "edge-1")
    private = load_ssh_private_key((tmp_path / "key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert (tmp_path / "key.pub").read_text() == f"{line}\n" == f"{public} edge-1\n"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_every_device_is_told_what_it_owns_and_where(kit: Path) -> None:
    for place, (name, owned) in enumerate(edges.EDGES.items()):
        folder = kit / "nodes" / name
        assert exec_start(folder / "fedcmi-supernode.service")[1:] == [
            "deploy",
            "node",
            "/etc/fedcmi",
        ]
        settings = read_settings(folder)
        command = supernode_command(
            settings.secure, settings.config, Path("/etc/fedcmi"), settings.address
        )
        node = read_node_config(parse_config_args([after(command, "--node-config")]))
        assert (node.partition_id, node.num_partitions) == (place, None)
        assert (node.modalities, node.data) == (tuple(owned), f"/data/{name}")
        assert after(command, "--superlink") == "hub.example.org:8000"
        assert after(command, "--root-certificates") == "/etc/fedcmi/ca.crt"
        assert after(command, "--auth-supernode-private-key") == "/etc/fedcmi/key"
        assert "--insecure" not in command


def test_the_superlink_is_on_loopback_and_wants_tls_and_known_keys(kit: Path) -> None:
    command = exec_start(kit / "server" / "fedcmi-superlink.service")
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} < set(command)
    assert "--insecure" not in command
    assert (after(command, "--host"), after(command, "--port")) == ("127.0.0.1", "39701")
    for option, file in (
        ("ca-certfile", "ca.crt"),
        ("certfile", "server.crt"),
        ("keyfile", "server.key"),
    ):
        assert after(command, f"--ssl-{option}") == str(kit / "server" / "inner" / file)
    assert after(command, "--database") == str(kit / "server" / "superlink.db")
    connection = tomllib.loads((kit / "server" / "config.toml").read_text())["superlink"]
    assert connection[connection["default"]] == {
        "address": "127.0.0.1:39701", "root-certificates": str(kit / "server" / "inner" / "ca.crt"),
    }  # fmt: skip


def test_containers_run_the_same_as_units(kit: Path) -> None:
    for name in edges.EDGES:
        text = (kit / "nodes" / name / "Containerfile").read_text(encoding="utf-8")
        command = json.loads(text.rpartition("CMD ")[2])
        assert command[1:] == exec_start(kit / "nodes" / name / "fedcmi-supernode.service")[1:]


def test_an_image_holds_the_wheel_and_nothing_else(kit: Path) -> None:
    """A deployment made in the checkout, as README does it, has private keys."""
    text = (kit / "nodes" / "edge-audio" / "Containerfile").read_text(encoding="utf-8")
    lines = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert lines == [["fedcmi_flwr-*.whl"]]


def test_the_run_config_is_one(kit: Path) -> None:
    raw = resolve(kit / "server" / "run.toml", {}, [])
    assert (raw["data"], raw["fraction-train"], raw["min-available-nodes"]) == (
        "/srv/test data",
        1.0,
        2,
    )


def test_the_guides_have_a_command_for_every_step(kit: Path) -> None:
    text = (kit / "README.md").read_text(encoding="utf-8")
    for step in (
        "token",
        "register",
        "run",
        "status",
        "add",
        "revoke",
        "replace",
        "renew",
        "backup",
    ):
        assert f"fedcmi deploy {step} '{kit}'" in text
    assert f"fedcmi deploy run '{kit}' --run-dir RUN_DIR --resume" in text
    for name in edges.EDGES:
        guide = (kit / "nodes" / name / "README.md").read_text(encoding="utf-8")
        assert f"`/data/{name}`" in guide
        assert "deploy join - --home /etc/fedcmi" in guide
        assert "deploy check /etc/fedcmi" in guide


def test_a_thousand_devices_are_one_command_and_a_short_guide(tmp_path: Path) -> None:
    nodes = tuple(Device(f"edge-{place}", place, ("audio",), "/data") for place in range(1000))
    guide = for_the_server(Deployment("hub", 8000, "/srv", (), True, nodes), tmp_path)
    assert len(guide.splitlines()) < 250
    assert "and 950 more" in guide
    assert guide.count("deploy register") == 1


def test_without_security_only_when_asked_for(tmp_path: Path) -> None:
    done = init(tmp_path / "open", "--insecure")
    assert done.exit_code == 0
    assert "warning: no encryption" in done.output
    kit = tmp_path / "open"
    assert [
        path
        for path in kit.rglob("*")
        if path.name.endswith((".crt", ".key", ".pub")) or path.name == "key"
    ] == []
    for unit in kit.rglob("*.service"):
        command = exec_start(unit)
        assert ("--insecure" in command) == (unit.name == "fedcmi-superlink.service")
        assert [option for option in command if "auth" in option or "certificate" in option] == []
    assert "**Insecure**" in (kit / "README.md").read_text(encoding="utf-8")


def test_a_device_may_keep_its_key(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    public = make_node_key(tmp_path / "device", "own")
    more = (
        '\n[[node]]\nname = "own"\nmodalities = ["audio"]\ndata = "/data"\npublic-key = '
        '"device/key.pub"\n'
    )
    done = init(tmp_path / "kit", more=more)
    assert done.exit_code == 0, done.output
    made = tmp_path / "kit" / "nodes" / "own"
    assert (made / "key.pub").read_text() == f"{public}\n"
    assert not (made / "key").exists()
    assert "PATH_OF_THE_PRIVATE_KEY" in (made / "README.md").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["deploy", "up", str(tmp_path / "kit")])
    assert done.exit_code == 1
    assert "own: its private key is on the device" in done.output


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert init(tmp_path / "kit", address=address).exit_code == 0
        done = CliRunner().invoke(app, ["deploy", "up", str(tmp_path / "kit")])
    assert done.exit_code == 1
    assert f"{address}: another process has this port" in done.output
    assert list((tmp_path / "kit" / "rehearsal").glob("*.pid")) == []


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine").touch()
    done = init(tmp_path / "kit")
    assert done.exit_code == 1
    assert "exists and is not an empty directory" in done.output
    assert [path.name for path in tmp_path.rglob("*")] == ["kit", "kit.toml", "mine"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["up", "--only", "edge-9"],
            "'edge-9': no process of this deployment; it has superlink, registrar,",
        ),
        (["up", "--only", "edge-audio"], "the superlink does not run"),
        (["run"], "no SuperLink of this deployment on this machine"),
    ],
)
def test_what_cannot_start_says_why(kit: Path, arguments: list[str], reason: str) -> None:
    done = CliRunner().invoke(app, ["deploy", arguments[0], str(kit), *arguments[1:]])
    assert done.exit_code == 1
    assert reason in done.output


def test_a_rehearsal_is_the_same_by_another_name_of_its_directory(
    kit: Path, tmp_path: Path
) -> None:
    """What was started under one is found, and stopped, under the other."""
    (tmp_path / "link").symlink_to(kit)
    assert Rehearsal(tmp_path / "link").home == Rehearsal(kit).home


def test_nothing_runs_and_nothing_need_be_stopped(kit: Path) -> None:
    for _ in range(2):
        assert CliRunner().invoke(app, ["deploy", "down", str(kit)]).exit_code == 0
    done = CliRunner().invoke(app, ["deploy", "status", str(kit), "--json"])
    found = json.loads(done.stdout)
    assert [process["name"] for process in found] == [
        "superlink",
        "registrar",
        "proxy",
        *edges.EDGES,
    ]
    assert {(process["pid"], process["registered"], process["online"]) for process in found} == {
        (None, None, False)
    }


def test_a_service_gets_at_what_its_device_names_and_at_nothing_else(tmp_path: Path) -> None:
    more = '\n[[node]]\nname = "edge-more"\nmodalities = ["audio"]\ndata = "/data/more"\n'
    more += 'personal = "/srv/my model"\npretrained = "audio=/srv/trunk"\n'
    assert init(tmp_path / "kit", more=more).exit_code == 0
    folder = tmp_path / "kit" / "nodes" / "edge-more"
    unit = (folder / "fedcmi-supernode.service").read_text(encoding="utf-8").splitlines()
    writable = [line for line in unit if line.startswith("ReadWritePaths=")]
    assert writable == ['ReadWritePaths="/etc/fedcmi"', 'ReadWritePaths="/srv/my model"']

    guide = (folder / "README.md").read_text(encoding="utf-8")
    assert "sudo install -d -o fedcmi -m 700 '/srv/my model'\n" in guide
    lines = (folder / "Containerfile").read_text(encoding="utf-8").splitlines()
    (run,) = [line for line in lines if "podman run" in line]
    volumes = [option for option in shlex.split(run) if option.startswith("--volume=")]
    assert volumes == [
        "--volume=/etc/fedcmi:/etc/fedcmi", "--volume=/srv/my model:/srv/my model",
        "--volume=/data/more:/data/more:ro", "--volume=/srv/trunk:/srv/trunk:ro",
    ]  # fmt: skip
