"""LoRA on trunks: what is trained, what is loaded, what is merged, and what the key may say."""

from pathlib import Path
from typing import Any

import families
import pytest
import torch

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import ModelConfig
from fedcmi_flwr.data.views import AS_STORED
from fedcmi_flwr.models.adapters import adapters_of, read_adapters
from fedcmi_flwr.models.encoders.auto import Auto
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.pretrained import load_trunks
from fedcmi_flwr.models.published import read_architectures

LORA = {"r": 2, "alpha": 4.0, "dropout": 0.1, "targets": []}
FITTING = tuple(name for name in families.FAMILIES if name not in ("resnet", "convnext"))


def _model(place: Path, name: str, adapter: dict[str, Any] | None) -> MultimodalModel:
    modality = families.family(name).modality
    config = ModelConfig(
        encoder="auto", pretrained="", embedding_dim=4, projector="linear", fusion="concat", initialization="torch",
        start_from="", freeze="", adapter="",
    )  # fmt: skip
    options = read_architectures(config, [modality], {modality.name: str(place)})
    if adapter:
        options[modality.name]["adapter"] = adapter
    torch.manual_seed(1)
    spec = ModelSpec(
        (modality.name,),
        2,
        4,
        {modality.name: "auto"},
        "linear",
        "concat",
        "fusion",
        options=options,
    )
    model = MultimodalModel(spec, [modality])
    load_trunks(model, {modality.name: str(place)})
    return model


def _shown(name: str) -> torch.Tensor:
    modality = families.family(name).modality
    stored = torch.from_numpy(families.samples(modality, 4))
    if name == "clip-text":  # which looks at the end of the text, token 3, stored as 4
        stored = torch.where(stored > 0, stored + 1, 0)
    return AS_STORED.show(stored, modality, None)


@pytest.mark.parametrize("name", FITTING)
def test_a_new_adapter_changes_nothing_and_alone_is_trained(tmp_path: Path, name: str) -> None:
    place, modality = families.save(tmp_path / name, name), families.family(name).modality.name
    plain, adapted = _model(place, name, None), _model(place, name, LORA)
    checksums = [load_trunks(model, {modality: str(place)}) for model in (plain, adapted)]
    assert checksums[0] == checksums[1]
    encoders = [model.eval().branch(modality).encoder for model in (plain, adapted)]
    x = _shown(name)
    assert torch.allclose(encoders[0].features(x), encoders[1].features(x), atol=1e-6)

    adapted.train()
    modes = {name: part.training for name, part in encoders[1].trunk.named_modules()}
    assert {
        name for name, training in modes.items() if training and ".lora_" not in f"{name}."
    } == set()
    assert any(modes.values())
    trunk = {each for each in adapted.trained_state() if ".encoder.trunk." in each}
    assert trunk
    assert all(".lora_" in each for each in trunk)
    assert {each for each in adapted.trained_parameters() if ".encoder.trunk." in each} == trunk

    before = {each: value.clone() for each, value in adapted.state_dict().items()}
    optimizer = torch.optim.SGD(adapted.trained_parameters().values(), lr=1.0)
    for _ in range(2):  # the second factor is zero at first, so the first has no gradient yet
        optimizer.zero_grad()
        encoders[1](x).square().sum().backward()
        optimizer.step()
    moved = {
        each for each, value in adapted.state_dict().items() if not torch.equal(value, before[each])
    }
    assert {each for each in moved if ".trunk." in each} == trunk


@pytest.mark.parametrize("name", ["vit", "roberta", "whisper"])
@torch.no_grad()
def test_a_merged_trunk_gives_the_same_and_has_the_published_names(
    tmp_path: Path, name: str
) -> None:
    place, modality = families.save(tmp_path / name, name), families.family(name).modality.name
    model = _model(place, name, LORA).eval()
    encoder = model.branch(modality).encoder
    assert isinstance(encoder, Auto)
    for each, value in model.trained_state().items():
        if ".lora_" in each:
            torch.nn.init.normal_(value, std=0.5)
    expected = encoder.features(_shown(name))
    plain = _model(place, name, None).eval().branch(modality).encoder
    assert float((expected - plain.features(_shown(name))).abs().max()) > 1e-3
    encoder.merge_adapter()
    assert torch.allclose(encoder.features(_shown(name)), expected, atol=1e-5)
    assert encoder.trunk.state_dict().keys() == plain.trunk.state_dict().keys()


def test_published_weights_stay_what_they_were(tmp_path: Path) -> None:
    from transformers import ViTModel

    place = families.save(tmp_path / "vit", "vit")
    model = _model(place, "vit", LORA)
    trunk = model.branch("image").encoder.trunk.state_dict()
    published = ViTModel.from_pretrained(place, add_pooling_layer=False).state_dict()
    base = {
        name.replace(".base_layer", ""): value
        for name, value in trunk.items()
        if "lora_" not in name
    }
    assert base.keys() == published.keys()
    assert all(torch.equal(published[name], value) for name, value in base.items())


def test_the_key() -> None:
    encoders = {"image": "auto", "text": "auto", "sound": "small-cnn"}
    assert adapters_of("", encoders, "auto", ()) == {}
    found = adapters_of("lora:r=4", encoders, "auto", ("text",))
    assert found == {"image": {"r": 4, "alpha": 8.0, "dropout": 0.0, "targets": []}}
    found = adapters_of(
        "text=lora:r=2,alpha=3,dropout=0.5,targets=query+key image=lora", encoders, "auto", ()
    )
    assert found["text"] == {"r": 2, "alpha": 3.0, "dropout": 0.5, "targets": ["query", "key"]}
    assert found["image"]["r"] == 8


@pytest.mark.parametrize(
    "text",
    ["dora:r=8", "lora:r=0", "lora:rank=8", "lora:r=8 lora:r=4", "lora:r=eight", "lora:dropout=1", "lora:alpha=0",
     "image=lora image=lora:r=4", "lora:r=1,r=2", "lora 'x"],
)  # fmt: skip
def test_other_adapters_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^adapter = "):
        read_adapters(text)


def test_modalities_that_cannot_have_one_are_refused() -> None:
    encoders = {"image": "auto", "sound": "small-cnn"}
    with pytest.raises(
        ConfigError, match="the trunk of 'sound' gets none: its encoder must be auto:"
    ):
        adapters_of("sound=lora", encoders, "auto", ())
    with pytest.raises(ConfigError, match="the trunk of 'image' gets none"):
        adapters_of("image=lora", encoders, "auto", ("image",))
    with pytest.raises(ConfigError, match="no trunk of an encoder auto:"):
        adapters_of("lora", encoders, "auto", ("image",))


def test_a_trunk_without_such_layers_says_which_it_has(tmp_path: Path) -> None:
    place = families.save(tmp_path / "vit", "vit")
    with pytest.raises(
        ValueError, match=r"ViTModel has no linear layers \['attn'\]; name some of \['fc1', 'fc2'"
    ):
        _model(place, "vit", {**LORA, "targets": ["attn"]})
    with pytest.raises(ValueError, match="ResNetModel has no linear layers"):
        _model(families.save(tmp_path / "resnet", "resnet"), "resnet", LORA)
