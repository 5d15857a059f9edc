"""Runs with LoRA: what travels, what moves, how they predict, go on and hide."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import federated
import kinds
import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.inference.export import export_model
from fedcmi_flwr.inference.predictor import Predictor
from fedcmi_flwr.strategy.nodes import content_of
from fedcmi_flwr.wire.packing import WireError, layout_groups
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics

ROOT = Path(__file__).parents[3]
IMAGE = ModalitySpec("image", "image", (3, 32, 32), "uint8", 120.0, 60.0)
NODES = ["image+text", "text", "image"]
LORA = "image=lora:r=2 text=lora:r=3,alpha=3"
Make = Callable[..., federated.Federated]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    families.save(place / "vit", "vit")
    families.save(place / "bert", "bert")
    return place


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images and texts, of which some samples lack one."""
    place = tmp_path_factory.mktemp("posts") / "posts"
    return kinds.prepare(place, IMAGE, kinds.TOKENS, absent={2: "text", 5: "image"}, count=24)


def _options(models: Path, **changes: Any) -> dict[str, Any]:
    return {
        "encoder": f"image=auto:{models / 'vit'} text=auto:{models / 'bert'}",
        "adapter": LORA,
        **changes,
    }


def _names(message: Message) -> set[str]:
    layouts = [record for name, record in message.content.items() if name.endswith("layout")]
    return {
        name for layout in layouts for names in layout_groups(layout).values() for name in names
    }


def _published(models: Path, trunk: dict[str, torch.Tensor], name: str) -> dict[str, bool]:
    """Return whether each published array of a trunk is what was published."""
    from transformers import AutoModel

    saved = AutoModel.from_pretrained(models / name, add_pooling_layer=False).state_dict()
    own = {
        key.replace(".base_layer", ""): value for key, value in trunk.items() if "lora_" not in key
    }
    return {key: torch.equal(value, saved[key]) for key, value in own.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "fedavg"},
        {"method": "scaffold"},
        {"method": "moon"},
        {"method": "fedcmi-plus", "warmup": 0},
        {"method": "fedavg", "server-optimizer": "fedadam", "update-compression": "int8"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_adapters_alone_are_trained_and_sent(
    tmp_path: Path, models: Path, posts: Path, settings: dict[str, Any]
) -> None:
    run = federated.federate(tmp_path / "run", posts, NODES, **_options(models, **settings))
    start = dict(run.arrays)
    for server_round in (1, 2):
        messages = run.messages(server_round, run.arrays)
        run.round(server_round)
        assert run.strategy.report.refused == []
        for message in (*messages, *run.replies):
            trunk = {name for name in _names(message) if ".encoder.trunk." in name}
            assert all("lora_" in name for name in trunk)
    assert not [
        name
        for part in range(3)
        for name in run.memory(part)
        if ".trunk." in name and "lora_" not in name
    ]
    moved = {name for name in start if not np.array_equal(start[name], run.arrays[name])}
    for modality, model in (("image", "vit"), ("text", "bert")):
        assert any(f"branches.{modality}." in name and "lora_B" in name for name in moved)
        trunk = run.federation.model.branch(modality).encoder.trunk.state_dict()
        same = _published(models, trunk, model)
        assert same
        assert all(same.values())


def test_a_round_of_lora_costs_at_most_2_percent_of_a_full_one(tmp_path: Path, posts: Path) -> None:
    """Of a trunk of ViT-Tiny's size with adapters of rank 8, heads and projectors included."""
    from transformers import ViTConfig, ViTModel

    sizes = {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    ViTModel(ViTConfig(**sizes, image_size=32)).save_pretrained(tmp_path / "tiny")
    options = {"encoder": f"auto:{tmp_path / 'tiny'}", "modalities": "image", "method": "fedcmi-plus",
               "embedding-dim": 64}  # fmt: skip
    runs = [
        federated.federate(tmp_path / name, posts, ["image", "image"], **options, adapter=adapter)
        for name, adapter in (("full", ""), ("lora", "lora:r=8"))
    ]
    for run in runs:
        run.round(1)
        assert run.strategy.report.refused == []
    for sizes_of in ("bytes_down", "bytes_up"):
        full, lora = (getattr(run.strategy.report, sizes_of) for run in runs)
        for partition in (0, 1):
            assert full[partition] > 20e6
            assert lora[partition] <= 0.02 * full[partition]


def test_what_a_run_leaves_predicts_and_exports(tmp_path: Path, models: Path, posts: Path) -> None:
    """The model's file holds the adapters; a graph has them merged and gives the same."""
    run = federated.federate(
        tmp_path / "run", posts, NODES, **_options(models, method="fedcmi-plus", warmup=0, lr=0.5)
    )
    run.round(1)
    run.round(2)
    run.evaluate(2)
    file = run.federation.directory.model_path
    names = load_file(file).keys()
    assert any(".base_layer." in name for name in names)
    predictor = Predictor.load(file, "cpu")
    test = load_split(posts, "test", ("image", "text"))
    whole = np.flatnonzero(test.has[test.rows].all(axis=1))
    stored = {name: np.asarray(test.arrays[name])[test.rows[whole]] for name in ("image", "text")}
    expected = predictor.predict_proba(stored)

    (graph, _) = export_model(file, tmp_path / "onnx", "onnx", [["image", "text"]])
    import onnx
    import onnxruntime

    assert not [part.name for part in onnx.load(graph).graph.initializer if "lora" in part.name]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], stored)
    assert np.abs(found - expected).max() < 1e-4  # the predictor's adapters are not merged


def test_a_node_must_have_the_servers_trunk(tmp_path: Path, models: Path, posts: Path) -> None:
    other = families.save(tmp_path / "other", "bert", seed=1)
    run = federated.federate(tmp_path / "run", posts, NODES, **_options(models, method="fedavg"))
    run.grid.contexts[1002].node_config["pretrained"] = f"text={other}"
    run.round(1)
    assert sorted(run.strategy.report.examples) == [0, 2]
    with pytest.raises(WireError, match="'text': the frozen trunks differ"):
        content_of(run.replies[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": "voice=lora"}, "adapter: 'voice' is not stored"),
        ({"freeze": "text"}, "the trunk of 'text' gets none"),
        ({"encoder": "image=small-cnn text=bag-of-words"}, "the trunk of 'image' gets none"),
        ({"adapter": "lora:r=-1"}, "r must be 1 or more"),
    ],
)
def test_keys_that_do_not_go_together(
    tmp_path: Path, models: Path, posts: Path, changes: dict[str, Any], words: str
) -> None:
    from server_app.launch.start import check_modalities, read_run_config

    options = {**federated.SMALL, "data": str(posts), **_options(models, **changes)}
    with pytest.raises(ConfigError, match=words):
        check_modalities(read_run_config(resolve(None, options, [])))


def _raw(directory: Path, models: Path, posts: Path, **changes: Any) -> dict[str, Any]:
    options = {**federated.SMALL, "data": str(posts), "run-dir": str(directory), "method": "fedcmi-plus",
               "num-server-rounds": 4, "node-memory": "run-dir", **_options(models, **changes)}  # fmt: skip
    return resolve(None, options, [])


def test_kill_9_and_resume_give_the_bits_of_one_run(
    tmp_path: Path, models: Path, posts: Path
) -> None:
    raw = _raw(tmp_path / "run", models, posts)
    keys = (
        "encoder",
        "adapter",
        "data",
        "run-dir",
        "method",
        "num-server-rounds",
        "node-memory",
        *federated.SMALL,
    )
    chosen = [part for key in keys for part in ("--set", f"{key}={raw[key]}")]
    command = [
        sys.executable,
        "-m",
        "server_app.commands.main",
        "run",
        "--engine",
        "in-process",
        "--num-nodes",
        "3",
    ]
    with subprocess.Popen(
        [*command, *chosen], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("round 2/") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    run_in_process({**raw, "resume": True}, 3, client_app, lambda line: None, plots=False)

    whole = run_in_process(
        _raw(tmp_path / "whole", models, posts), 3, client_app, lambda line: None, plots=False
    )
    found, expected = (
        load_file(place / "model.safetensors") for place in (tmp_path / "run", whole)
    )
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    assert [record["round"] for record in read_metrics(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_differential_privacy_hides_adapters(tmp_path: Path, models: Path, posts: Path) -> None:
    raw = _raw(
        tmp_path / "run", models, posts, **{"dp-noise-multiplier": 0.1, "num-server-rounds": 2}
    )
    place = run_in_process(raw, 3, client_app, lambda line: None, plots=False)
    records = read_metrics(place)
    assert [record["privacy"] is not None for record in records] == [False, True, True]
    state = load_tensors(place / "model.safetensors")
    prefix = "branches.text.encoder.trunk."
    trunk = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    assert all(_published(models, trunk, "bert").values())
    assert all(value.any() for name, value in trunk.items() if "lora_B" in name)
