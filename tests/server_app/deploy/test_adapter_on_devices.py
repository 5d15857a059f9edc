"""LoRA on real devices, each of which has the published trunk itself."""

import json
import subprocess
from pathlib import Path

import families
import kinds
import pytest
import torch
from safetensors.torch import load_file
from sites import require
from story import ENVIRONMENT, FEDCMI

from fedcmi_flwr.data.schema import ModalitySpec
from server_app.run.directory import read_metrics

IMAGE = ModalitySpec("image", "image", (3, 32, 32), "uint8", 120.0, 60.0)
OWNED = {"edge-both": ["image", "lab"], "edge-image": ["image"]}
SETTINGS = {
    "method": "fedcmi-plus",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "batch-size": 8,
    "embedding-dim": 8,
    "min-available-nodes": 2,
    "adapter": "image=lora:r=2",
    "checkpoint-every": 1,
}


def fedcmi(root: Path, *arguments: str) -> str:
    """Run a command as a user does, who sees what it printed if it fails."""
    done = subprocess.run(
        [*FEDCMI, *arguments], cwd=root, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a finished run on two devices."""
    require("nginx", "nginx-light")
    root = tmp_path_factory.mktemp("adapters")
    families.save(root / "vit", "vit")
    server = kinds.prepare(root / "server-data", IMAGE, kinds.VECTOR)
    text = f'[superlink]\naddress = "fedcmi.example.org:8000"\ndata = "{server}"\n'
    for name, owned in OWNED.items():
        modalities = [IMAGE if each == "image" else kinds.VECTOR for each in owned]
        data = kinds.prepare(root / name, *modalities)
        trunk = families.save(root / f"{name}-trunk", "vit")
        text += f'\n[[node]]\nname = "{name}"\nmodalities = {json.dumps(owned)}\n'
        text += f'data = "{data}"\npretrained = "image={trunk}"\n'
    (root / "nodes.toml").write_text(text, encoding="utf-8")

    settings = {**SETTINGS, "encoder": f"image=auto:{root / 'vit'} lab=mlp"}
    assignments = [f"--set={key}={value}" for key, value in settings.items()]
    fedcmi(root, "deploy", "init", "deployment", "--nodes", "nodes.toml")
    try:
        fedcmi(root, "deploy", "up", "deployment")
        fedcmi(root, "deploy", "run", "deployment", "--run-dir", "runs/lora", *assignments)
    finally:
        fedcmi(root, "deploy", "down", "deployment")

    return root


def test_both_devices_train_their_adapters(root: Path) -> None:
    records = read_metrics(root / "runs" / "lora")
    assert [record["round"] for record in records] == [0, 1, 2]
    for record in records[1:]:
        assert record["refused"] == []
        assert record["owners"] == {"image": [0, 1], "lab": [0], "shared": [0, 1]}


def test_the_model_has_the_published_trunk_and_adapters_that_moved(root: Path) -> None:
    from transformers import AutoModel

    prefix = "branches.image.encoder.trunk."
    arrays = load_file(root / "runs" / "lora" / "model.safetensors")
    trunk = {name.removeprefix(prefix): each for name, each in arrays.items() if prefix in name}
    adapters = {name: each for name, each in trunk.items() if "lora_" in name}
    assert any(each.any() for name, each in adapters.items() if "lora_B" in name)

    saved = AutoModel.from_pretrained(root / "vit", add_pooling_layer=False).state_dict()
    own = {name.replace(".base_layer", ""): trunk[name] for name in trunk.keys() - adapters.keys()}
    assert own
    assert all(torch.equal(each, saved[name]) for name, each in own.items())
