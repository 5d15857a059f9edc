"""The received model.

Two rounds of the paper's encoders in tiny, frozen trunks, and one model object for all nodes.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import federated
import kinds
import numpy as np
import pytest
import torch
from digits import Parts, node_configs
from flwr.app import ConfigRecord, Message
from safetensors.torch import load_file

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.file import load_model
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.strategy.nodes import content_of
from fedcmi_flwr.wire.packing import WireError, layout_groups

TRUNK = "branches.text.encoder.trunk."
Make = Callable[..., federated.Federated]


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """Return images and texts."""
    return kinds.prepare(
        tmp_path / "posts", kinds.IMAGE, kinds.TOKENS, absent={2: "text", 5: "image"}
    )


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Return the directory of a tiny BERT."""
    return kinds.weights(tmp_path / "bert", "bert", kinds.TOKENS)


@pytest.fixture
def frozen(tmp_path: Path, posts: Path, bert: Path) -> Make:
    """Return a maker of a federation whose BERT is frozen.

    A node with both modalities, and one with each.
    """

    def make(name: str = "run", **changes: object) -> federated.Federated:
        options = {
            "encoder": "image=small-cnn text=bert",
            "pretrained": f"text={bert}",
            "freeze": "text",
            **changes,
        }
        return federated.federate(
            tmp_path / name, posts, ["image+text", "text", "image"], **options
        )

    return make


def _names(message: Message) -> set[str]:
    """Return the names of all arrays in a message."""
    layouts = [record for name, record in message.content.items() if name.endswith("layout")]
    return {
        name for layout in layouts for names in layout_groups(layout).values() for name in names
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "fedavg", "max-gradient-norm": 1.0},
        {"method": "fedprox", "mu": 0.5},
        {"method": "scaffold"},
        {"method": "moon"},
        {"method": "fedogm"},
        {"method": "fedpmr"},
        {"method": "fedproto"},
        {"method": "late-fusion"},
        {"method": "fedcmi-plus", "warmup": 0},
        {"method": "fedcmi", "warmup": 0, "dominance": "batch"},
        {"method": "fedavg", "server-optimizer": "fedadam", "averaging": 0.5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_frozen_trunk_is_neither_trained_nor_sent(
    frozen: Make, bert: Path, settings: dict[str, Any]
) -> None:
    run = frozen(**settings)
    trunk = load_file(bert / "model.safetensors")
    start = dict(run.arrays)
    for server_round in (1, 2):
        messages = run.messages(server_round, run.arrays)
        run.round(server_round)
        assert run.strategy.report.refused == []
        for message in (*messages, *run.replies):
            assert not [name for name in _names(message) if name.startswith(TRUNK)]
    run.federation.evaluate(2, federated._record(run.arrays))
    assert not [name for name in run.arrays if name.startswith(TRUNK)]
    assert not [name for part in range(3) for name in run.memory(part) if name.startswith(TRUNK)]
    moved = {name for name in start if not np.array_equal(start[name], run.arrays[name])}
    assert {name for name in start if "text" in name} & moved
    state = run.federation.model.state_dict()
    assert all(torch.equal(state[TRUNK + name], value) for name, value in trunk.items())


def test_a_frozen_trunk_costs_no_bytes(
    frozen: Make, posts: Path, tmp_path: Path, bert: Path
) -> None:
    """A message of the run that trains the trunk is larger by the trunk's bytes, in both
    directions.
    """
    runs = frozen("frozen", method="fedavg"), frozen("trained", method="fedavg", freeze="")
    for run in runs:
        run.round(1)
    size = sum(4 * value.numel() for value in load_file(bert / "model.safetensors").values())
    for sizes in ("bytes_down", "bytes_up"):
        small, large = (getattr(run.strategy.report, sizes) for run in runs)
        for partition in (0, 1):
            assert large[partition] - small[partition] > 0.99 * size
        assert abs(large[2] - small[2]) < 500  # the node without text


def test_the_checkpoint_is_whole(frozen: Make, bert: Path) -> None:
    run = frozen(method="fedcmi")
    run.round(1)
    accuracies = run.evaluate(1)
    for file in bert.iterdir():
        file.unlink()
    model, metadata = load_model(run.federation.directory.model_path)
    assert metadata["model"]["frozen"] == ["text"]
    assert not any(w.requires_grad for w in model.branch("text").encoder.trunk.parameters())
    batch = next(run.federation.test_samples.evaluation_batches(("image", "text")))
    expected = run.federation.model.eval()(batch).fused_logits
    assert torch.equal(model(batch).fused_logits, expected)
    right = float((expected.argmax(1) == batch.labels).double().mean())
    assert accuracies["accuracy.fused"] == pytest.approx(right)


def test_a_node_has_its_own_directory_and_must_have_the_servers_weights(
    frozen: Make, tmp_path: Path, bert: Path
) -> None:
    same = kinds.weights(tmp_path / "same", "bert", kinds.TOKENS)
    other = kinds.weights(tmp_path / "other", "bert", kinds.TOKENS, seed=1)
    run = frozen(method="fedavg")
    for number, place in ((1001, same), (1002, other), (1003, other)):
        run.grid.contexts[number].node_config["pretrained"] = f"text={place}"
        run.grid.contexts[number].run_config["pretrained"] = ""
    run.round(1)
    assert sorted(run.strategy.report.examples) == [0, 2]  # node 2 has no text, so nothing to load
    words = rf"'text': the frozen trunks differ: {other} on this node .*{bert} on the server"
    with pytest.raises(WireError, match=words):
        content_of(run.replies[1])
    run.grid.contexts[1002].node_config.pop("pretrained")
    run.round(2)
    with pytest.raises(WireError, match="freeze = 'text': a frozen trunk needs weights"):
        content_of(run.replies[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained": ""}, "freeze = 'text': a frozen trunk needs weights"),
        ({"freeze": "text+voice"}, r"freeze: 'voice' is not stored, only \['image', 'text'\]"),
        ({"pretrained": "voice=/w"}, "pretrained: 'voice' is not stored"),
        ({"augment": "text"}, r"augment: 'text' is not one of .*\['image'\]"),
    ],
)
def test_impossible_keys_are_refused_by_the_server(
    frozen: Make, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        frozen(**changes)


def test_keys_of_a_modality_that_this_run_leaves_out_do_not_matter(frozen: Make) -> None:
    run = frozen(
        modalities="image", encoder="small-cnn", pretrained="text=/nowhere", augment="image"
    )
    assert run.federation.model.owned == ("image",)


def test_pretrained_weights_travel_with_the_first_round(frozen: Make, bert: Path) -> None:
    """Nodes need no directory where nothing is frozen.

    The architecture's options reach them with the task.
    """
    run = frozen(method="fedavg", freeze="", initialization="xavier-kaiming")
    for name, value in load_file(bert / "model.safetensors").items():
        assert np.array_equal(run.arrays[TRUNK + name], value.numpy())
    assert not run.arrays["branches.text.encoder.output.bias"].any()
    for context in run.grid.contexts.values():
        context.run_config["pretrained"] = ""
    word_embeddings = TRUNK + "embeddings.word_embeddings.weight"
    before = run.arrays[word_embeddings].copy()
    run.round(1)
    assert run.strategy.report.refused == []
    assert not np.array_equal(run.arrays[word_embeddings], before)


def test_a_branch_with_a_frozen_trunk_of_dim_d_still_has_something_to_train(frozen: Make) -> None:
    run = frozen(method="fedavg", embedding_dim=16)
    assert "branches.text.encoder.output.weight" in run.arrays


PAPER: dict[str, tuple[tuple[ModalitySpec, ...], str, Mapping[str, Any]]] = {
    "voice and face": (
        (kinds.SPECTROGRAM, kinds.FRAMES),
        "audio=resnet18 visual=resnet18",
        {
            "augment": "visual",
            "view-size": 32,
            "view-frames": 3,
            "initialization": "xavier-kaiming",
        },
    ),
    "post": ((kinds.IMAGE, kinds.TOKENS), "image=densenet121 text=bert", {"augment": "image"}),
    "three": (
        (kinds.SPECTROGRAM, kinds.IMAGE, kinds.SERIES),
        "audio=small-cnn image=small-cnn motion=cnn-1d",
        {"view-size": 24},
    ),
}


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("method", ["fedcmi-plus", "fedavg"])
def test_two_rounds_of_every_task_and_again_the_same_bits(
    tmp_path: Path, task: str, method: str
) -> None:
    """Crops, frames and BERT's dropout come from the run's seed, not from what ran before in the
    process.
    """
    modalities, encoder, changes = PAPER[task]
    data = kinds.prepare(tmp_path / "data", *modalities, absent={3: modalities[0].name})
    used = dict(item.split("=") for item in encoder.split())
    places = {
        modality.name: kinds.weights(
            tmp_path / modality.name, used[modality.name], modality, normalization=norm
        )
        for modality in modalities
        for norm in (["batch"] if method == "fedavg" else ["group"])
        if used[modality.name] in kinds.TINY
    }
    where = " ".join(f"{name}={place}" for name, place in places.items())
    nodes = [
        "+".join(m.name for m in modalities),
        modalities[1].name,
        "+".join(m.name for m in modalities),
    ]
    ends = []
    for number in (1, 2):
        torch.manual_seed(number)
        options = {"encoder": encoder, "method": method, "pretrained": where, "lr": 0.01, **changes}
        run = federated.federate(tmp_path / f"run{number}", data, nodes, **options)
        start = dict(run.arrays)
        for server_round in (1, 2):
            run.round(server_round)
            assert run.strategy.report.refused == []
        accuracies = run.evaluate(2)
        assert 0 <= accuracies["accuracy.fused"] <= 1
        moved = [name for name in start if not np.array_equal(start[name], run.arrays[name])]
        assert {name.split(".")[1] for name in moved if name.startswith("branches")} == {
            m.name for m in modalities
        }
        assert all(np.isfinite(value).all() for value in run.arrays.values())
        ends.append(run.arrays)
        model, metadata = load_model(run.federation.directory.model_path)
        assert json.loads(json.dumps(metadata["inputs"])) == metadata["inputs"]
        assert model.spec.options.keys() == places.keys()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("method", ["fedcmi-plus", "moon"])
def test_nodes_that_take_turns_on_a_process_do_not_meet(
    federate: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The model's object is kept from node to node.

    They reply the same bits as with one of their own.
    """
    replies = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr("client_app.model._models", Forgetful())
        federation, grid, arrays = federate(
            node_configs("audio+visual", "audio+visual", "audio"), method=method
        )
        for server_round in (1, 2):
            task = ConfigRecord(federation.task_config())
            messages = list(federation.strategy.configure_train(server_round, arrays, task, grid))
            found = [reply.content["arrays"] for reply in grid.send_and_receive(messages)]
        replies.append([{key: array.data for key, array in record.items()} for record in found])
    assert len(replies[0]) == 3
    assert replies[0] == replies[1]


class Forgetful(dict[str, MultimodalModel]):
    """Keeps what it is given once for one look."""

    def __contains__(self, key: object) -> bool:
        """Say that nothing is there."""
        return False
