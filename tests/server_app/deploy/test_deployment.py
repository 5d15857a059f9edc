"""What ``nodes.toml`` may say, and what is said about it where it does not."""

from pathlib import Path

import edges
import pytest

from server_app.deploy.deployment import DeploymentError, read_deployment, write_deployment
from server_app.deploy.nodes_toml import read_nodes_toml

SERVER = '[superlink]\naddress = "hub.example.org:8000"\ndata = "/srv/data"\n'
NODE = '[[node]]\nname = "edge-1"\nmodalities = ["audio"]\ndata = "/data/1"\n'


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodes.toml"
    path.write_text(text, encoding="utf-8")
    read_nodes_toml(path, secure=True)


def test_a_deployment_is_read_and_kept(tmp_path: Path) -> None:
    parts = {name: tmp_path / name for name in edges.EDGES}
    path = tmp_path / "nodes.toml"
    path.write_text(
        edges.nodes_toml(tmp_path / "test data", parts, "hub.example.org:9000"), encoding="utf-8"
    )
    deployment = read_nodes_toml(path, secure=True)
    assert (deployment.host, deployment.port, deployment.address) == (
        "hub.example.org",
        9000,
        "hub.example.org:9000",
    )
    assert deployment.processes == ("superlink", "registrar", "proxy", *edges.EDGES)
    assert (
        deployment.node("edge-both-2").config
        == 'partition-id=1 name="edge-both-2" modalities="audio+visual" '
        f'data="{parts["edge-both-2"]}"'
    )
    write_deployment(tmp_path, deployment)
    assert read_deployment(tmp_path) == deployment


def test_a_node_may_differ_from_the_run(tmp_path: Path) -> None:
    path = tmp_path / "nodes.toml"
    more = 'device = "cpu"\npretrained = "text=/weights"\nlocal-epochs = 2\ntime-budget = 0.5\n'
    path.write_text(SERVER + NODE + more, encoding="utf-8")
    node = read_nodes_toml(path, secure=False).nodes[0]
    assert node.config == (
        'partition-id=0 local-epochs=2 time-budget=0.5 name="edge-1" modalities="audio" '
        'data="/data/1" device="cpu" pretrained="text=/weights"'
    )


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes.toml"
    path.write_text(
        (SERVER + NODE).replace("/srv/data", "server").replace("/data/1", "one"), encoding="utf-8"
    )
    deployment = read_nodes_toml(path, secure=True)
    assert (deployment.data, deployment.nodes[0].data) == (
        str(tmp_path / "server"),
        str(tmp_path / "one"),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nodes", "not a TOML file"),
        (NODE, "the top level, key 'superlink': found nothing; expected a table"),
        (SERVER, "key 'node': found nothing; expected one or more tables [[node]]"),
        (
            SERVER + "names = []\n" + NODE,
            "[superlink], key 'names': found []; expected a list of names",
        ),
        (SERVER + 'names = ["a b"]\n' + NODE, "[superlink], key 'names': found ['a b']"),
        (
            SERVER.replace(":8000", "") + NODE,
            "key 'address': found 'hub.example.org'; expected \"host:port\"",
        ),
        (SERVER.replace("8000", "80000") + NODE, "key 'address': found 'hub.example.org:80000'"),
        (
            SERVER.replace("hub.example.org", "[fd00::1]") + NODE,
            "key 'address': found '[fd00::1]:8000'; expected",
        ),
        (SERVER + 'names = ["fd00::7::1"]\n' + NODE, "key 'names': found ['fd00::7::1']"),
        (
            SERVER.replace("/srv", "/$HOME") + NODE,
            "[superlink], key 'data': found '/$HOME/data'; expected a path without",
        ),
        (
            SERVER + "port = 1\n" + NODE,
            "[superlink]: unknown key 'port'; expected are address, data, names",
        ),
        (
            SERVER + NODE + NODE.replace("1", "2") + "port = 1\n",
            "[[node]] number 2: unknown key 'port'",
        ),
        (SERVER + NODE + NODE, "[[node]]: name = 'edge-1' stands there twice"),
        (
            SERVER + NODE.replace("edge-1", "superlink"),
            "[[node]] number 1, key 'name': found 'superlink'",
        ),
        (SERVER + NODE.replace("edge-1", "proxy"), "[[node]] number 1, key 'name': found 'proxy'"),
        (
            SERVER.replace("8000", "39701") + NODE,
            "other than the server's own ports, 39701 and 39702",
        ),
        (
            SERVER + NODE.replace("edge-1", "../x"),
            "key 'name': found '../x'; expected 1 to 63 letters",
        ),
        (
            SERVER + NODE.replace('["audio"]', '"audio"'),
            "key 'modalities': found 'audio'; expected a list of different",
        ),
        (
            SERVER + NODE.replace('"audio"', '"audio", "audio"'),
            "key 'modalities': found ['audio', 'audio']",
        ),
        (SERVER + NODE.replace('"audio"', '"a+b"'), "key 'modalities': found ['a+b']"),
        (
            SERVER + NODE + 'device = "gpu"\n',
            "key 'device': found 'gpu'; expected one of auto, cpu, cuda",
        ),
        (SERVER + NODE + "pretrained = 1\n", "key 'pretrained': found 1; expected"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DeploymentError) as caught:
        read(tmp_path, text)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "nodes.toml"))


def test_a_public_key_must_be_one_that_flower_takes(tmp_path: Path) -> None:
    (tmp_path / "edge-1.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEeb edge-1\n")
    with pytest.raises(
        DeploymentError, match=r"key 'public-key': .*edge-1.pub does not hold .* ECDSA P-384"
    ):
        read(tmp_path, SERVER + NODE + 'public-key = "edge-1.pub"\n')


@pytest.mark.parametrize(
    ("stored", "reason"), [(None, "make a deployment with `fedcmi deploy init`"), ("{}", "not a")]
)
def test_a_directory_without_a_deployment_is_refused(
    tmp_path: Path, stored: str | None, reason: str
) -> None:
    if stored is not None:
        (tmp_path / "deployment.json").write_text(stored)
    with pytest.raises(DeploymentError, match=reason):
        read_deployment(tmp_path)
