"""Pretrained trunks.

What is loaded is what was saved, and what does not fit is named by file and key.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import kinds
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.pretrained import (
    PretrainedError,
    absolute_locations,
    check_frozen,
    load_trunks,
    read_locations,
    read_options,
)

State = dict[str, torch.Tensor]


def _model(encoder: str, modality: ModalitySpec, normalization: str = "batch") -> MultimodalModel:
    """Return a model of one tiny encoder."""
    name = modality.name
    options = {name: kinds.TINY.get(encoder, {})}
    torch.manual_seed(9)
    spec = ModelSpec(
        (name,), 2, 4, {name: encoder}, "linear", "concat", "fusion", normalization, options
    )
    return MultimodalModel(spec, [modality])


@pytest.mark.parametrize(
    ("encoder", "modality"),
    [
        ("resnet18", kinds.FRAMES),
        ("densenet121", kinds.IMAGE),
        ("bert", kinds.TOKENS),
        ("cnn-1d", kinds.SERIES),
    ],
)
def test_a_trunk_is_loaded_and_its_checksum_is_of_its_values(
    tmp_path: Path, encoder: str, modality: ModalitySpec
) -> None:
    places = [
        kinds.weights(tmp_path / str(i), encoder, modality, seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    model, checksums = _model(encoder, modality), []
    output = model.branch(modality.name).encoder.output.weight.clone()
    for place in places:
        assert read_options(modality.name, str(place)) == kinds.TINY.get(encoder, {})
        checksums.append(load_trunks(model, {modality.name: str(place)})[modality.name])
        trunk, saved = (
            model.branch(modality.name).encoder.trunk.state_dict(),
            load_file(place / "model.safetensors"),
        )
        assert all(torch.equal(trunk[name], saved[name]) for name in {**trunk, **saved})
    assert checksums[0] == checksums[1] != checksums[2]
    assert torch.equal(model.branch(modality.name).encoder.output.weight, output)


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    original = BertModel(BertConfig(**kinds.TINY["bert"])).eval()
    original.save_pretrained(tmp_path / "bert")
    options = {"text": read_options("text", str(tmp_path / "bert"))}
    spec = ModelSpec(
        ("text",), 2, 16, {"text": "bert"}, "linear", "concat", "fusion", options=options
    )
    model = MultimodalModel(spec, [kinds.TOKENS])
    load_trunks(model, {"text": str(tmp_path / "bert")})
    text = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
    expected = original(input_ids=text, attention_mask=(text != 0).long()).pooler_output
    assert torch.equal(model.eval().branch("text").encoder(text), expected)


def _publish(state: State) -> State:
    """Return a BERT's weights under the names of checkpoints from 2018, with pretraining's
    heads.
    """
    old = {f"bert.{name}": value for name, value in state.items()}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in old.items()
    }
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): value for name, value in old.items()}
    return {
        **old,
        "cls.predictions.bias": torch.zeros(3),
        "bert.embeddings.position_ids": torch.arange(16)[None],
    }


@pytest.mark.parametrize(
    ("encoder", "modality", "publish"),
    [
        ("bert", kinds.TOKENS, _publish),
        (
            "resnet18",
            kinds.IMAGE,
            lambda s: {**s, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)},
        ),
    ],
)
def test_published_names_are_understood(
    tmp_path: Path, encoder: str, modality: ModalitySpec, publish: Callable[[State], State]
) -> None:
    place = kinds.weights(tmp_path / "w", encoder, modality)
    model, name = _model(encoder, modality), modality.name
    checksum = load_trunks(model, {name: str(place)})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(publish(load_file(place / "model.safetensors")), place / "model.safetensors")
    other = _model(encoder, modality)
    assert load_trunks(other, {name: str(place)}) == checksum
    assert all(
        torch.equal(value, before[key])
        for key, value in other.state_dict().items()
        if ".trunk." in key
    )


def _drop(state: State) -> State:
    return {name: value for name, value in state.items() if name != "bn1.bias"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop, r"model\.safetensors: lacks 'bn1\.bias' \(1 in all\) .*'image'"),
        (
            lambda s: {**s, "extra.weight": torch.zeros(1)},
            r"model\.safetensors: has unknown 'extra\.weight'",
        ),
        (
            lambda s: {**s, "bn1.bias": torch.zeros(3)},
            r"'bn1\.bias' has shape \[3\].* needs \[64\]",
        ),
        (
            lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"'conv1\.weight' has shape \[64, 1, 7, 7\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[State], State], words: str
) -> None:
    file = kinds.weights(tmp_path / "w", "resnet18", kinds.IMAGE) / "model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(PretrainedError, match=words):
        load_trunks(_model("resnet18", kinds.IMAGE), {"image": str(file.parent)})


def test_batch_norm_in_a_run_with_group_norm_says_so(tmp_path: Path) -> None:
    place = kinds.weights(tmp_path / "w", "resnet18", kinds.IMAGE)
    with pytest.raises(PretrainedError, match=r"unknown '.*set normalization to 'batch'"):
        load_trunks(_model("resnet18", kinds.IMAGE, "group"), {"image": str(place)})
    place = kinds.weights(tmp_path / "g", "resnet18", kinds.IMAGE, normalization="group")
    load_trunks(_model("resnet18", kinds.IMAGE, "group"), {"image": str(place)})


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    place = kinds.weights(tmp_path / "w", "resnet18", kinds.IMAGE)
    (place / "model.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(PretrainedError, match=r"model\.safetensors: not a safetensors file"):
        load_trunks(_model("resnet18", kinds.IMAGE), {"image": str(place)})


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    model = _model("resnet18", kinds.IMAGE)
    with pytest.raises(
        PretrainedError, match=rf"pretrained image={tmp_path}/none: no such directory"
    ):
        load_trunks(model, {"image": f"{tmp_path}/none"})
    with pytest.raises(PretrainedError, match=r"model\.safetensors: missing; .*'image'"):
        load_trunks(model, {"image": str(tmp_path)})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config\.json: not JSON"):
        read_options("image", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(PretrainedError, match=r"config\.json: must hold a JSON object, found list"):
        read_options("image", str(tmp_path))


def test_another_name_is_one_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = kinds.weights(tmp_path / "w", "bert", kinds.TOKENS)
    asked: list[object] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name != "someone/bert":
            raise OSError("offline")
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert read_options("text", "someone/bert") == kinds.TINY["bert"]
    assert asked == [("someone/bert", ["*.json", "*.safetensors", "*.txt", "*.model"])]
    with pytest.raises(
        PretrainedError, match=r"pretrained text=other: neither a directory nor .*offline"
    ):
        read_options("text", "other")


@pytest.mark.parametrize("text", ["text", "text=", "=/w", "text=/a text=/b", "text=/a b"])
def test_locations_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"pretrained = .*must be 'modality=DIR"):
        read_locations(text)


def test_locations() -> None:
    assert read_locations("") == {}
    assert read_locations('text="/my weights/bert" visual=/a=b') == {
        "text": "/my weights/bert",
        "visual": "/a=b",
    }
    check_frozen({"text": "/a"}, ["text"])
    with pytest.raises(ConfigError, match=r"freeze = 'visual': .*pretrained = 'visual=DIR'"):
        check_frozen({"text": "/a"}, ["text", "visual"])


def test_paths_count_from_the_working_directory_and_names_of_the_hub_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my weights" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = read_locations(
        absolute_locations("a='my weights/bert' b=./absent c=org/model d=/weights e=../up")
    )
    assert found == {"a": f"{tmp_path}/my weights/bert", "b": f"{tmp_path}/absent", "c": "org/model", "d": "/weights",
                     "e": f"{tmp_path}/../up"}  # fmt: skip
    assert absolute_locations("") == ""
