"""``auto:`` encoders give what a family's own class and processor give."""

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import ModelConfig
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import AS_STORED
from fedcmi_flwr.models.building import (
    absolute_encoders,
    auto_locations,
    encoder_names,
    portable_encoders,
)
from fedcmi_flwr.models.encoders import build_encoder
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.pretrained import PretrainedError, load_trunks
from fedcmi_flwr.models.published import check_recipes, locations_of, read_architectures

KEYS: dict[str, Any] = {"embedding_dim": 4, "projector": "linear", "fusion": "concat", "initialization": "torch",
                        "start_from": "", "freeze": ""}  # fmt: skip


def _config(encoder: str, pretrained: str = "") -> ModelConfig:
    return ModelConfig(encoder=encoder, pretrained=pretrained, **KEYS)


def _options(place: Path, modality: ModalitySpec) -> dict[str, Any]:
    config = _config(f"auto:{place}")
    return read_architectures(config, [modality], locations_of(config, [modality.name]))[
        modality.name
    ]


def _model(place: Path, modality: ModalitySpec) -> MultimodalModel:
    """Return a model whose one trunk has the weights of a directory."""
    name = modality.name
    options = {name: _options(place, modality)}
    torch.manual_seed(9)
    spec = ModelSpec((name,), 2, 4, {name: "auto"}, "linear", "concat", "fusion", options=options)
    model = MultimodalModel(spec, [modality]).eval()
    load_trunks(model, {name: str(place)})
    return model


def _features(place: Path, modality: ModalitySpec, stored: np.ndarray) -> torch.Tensor:
    """Return what the trunk makes of samples in stored units."""
    shown = AS_STORED.show(torch.from_numpy(stored), modality, None)
    with torch.inference_mode():
        return _model(place, modality).branch(modality.name).encoder.features(shown)


def _expected(name: str, place: Path, stored: np.ndarray) -> torch.Tensor:
    """Return what the model's own class makes of them, through its own processor."""
    chosen = families.family(name)
    kind = {"tokens": _expected_of_text, "series": _expected_of_sound}.get(
        chosen.modality.kind, _expected_of_images
    )
    with torch.inference_mode():
        return kind(name, chosen, chosen.model.from_pretrained(place).eval(), place, stored)


def _expected_of_text(
    name: str, chosen: families.Family, model: torch.nn.Module, place: Path, stored: np.ndarray
) -> torch.Tensor:
    tokens = torch.from_numpy(stored).long()
    mask = (tokens > 0).long()
    config = chosen.config.text_config if name == "clip-text" else chosen.config
    if config.pad_token_id:  # stored one higher
        tokens = torch.where(mask > 0, tokens - 1, config.pad_token_id)
    if name == "clip-text":
        return model.text_model(input_ids=tokens, attention_mask=mask).pooler_output
    states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    return torch.stack([each[kept > 0].mean(0) for each, kept in zip(states, mask, strict=True)])


def _expected_of_sound(
    name: str, chosen: families.Family, model: torch.nn.Module, place: Path, stored: np.ndarray
) -> torch.Tensor:
    padded = {"padding": "max_length"} if name == "whisper" else {}
    inputs = chosen.processor(
        [wave[0] for wave in stored], sampling_rate=16000, return_tensors="pt", **padded
    )
    read = model.get_encoder() if name == "whisper" else model
    return read(**inputs).last_hidden_state.mean(1)


def _expected_of_images(
    name: str, chosen: families.Family, model: torch.nn.Module, place: Path, stored: np.ndarray
) -> torch.Tensor:
    from transformers import AutoImageProcessor

    if chosen.processor is None:
        shown = AS_STORED.show(torch.from_numpy(stored), chosen.modality, None)
        return model(pixel_values=shown).pooler_output.flatten(1)
    images = AutoImageProcessor.from_pretrained(place)(
        list(torch.from_numpy(stored)), return_tensors="pt"
    )
    found = model.vision_model(**images) if name == "clip-image" else model(**images)
    if name in ("clip-image", "convnext"):
        return found.pooler_output
    return (
        found.feature_maps[-1].mean((2, 3)) if "backbone" in name else found.last_hidden_state[:, 0]
    )


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_trunk_gives_what_its_own_class_and_processor_give(tmp_path: Path, name: str) -> None:
    place, modality = families.save(tmp_path / name, name), families.family(name).modality
    stored = families.samples(modality, 5)
    if name == "clip-text":  # which looks for the end of the text, token 3, and so is stored as 4
        stored = np.where(stored > 0, stored + 1, 0).astype(modality.dtype)
    found, expected = _features(place, modality, stored), _expected(name, place, stored)
    assert found.shape == expected.shape
    # image processors round to whole grey levels after scaling
    tolerance = 2e-2 if modality.kind == "image" else 1e-4
    assert float((found - expected).abs().max()) < tolerance * max(1.0, float(expected.abs().max()))
    assert float(found.std(0).max()) > 1e-4  # samples differ


@pytest.mark.parametrize("name", ["vit", "wav2vec2", "whisper", "bert"])
def test_a_model_builds_again_from_its_options_alone(tmp_path: Path, name: str) -> None:
    place, modality = families.save(tmp_path / name, name), families.family(name).modality
    options = json.loads(json.dumps(_options(place, modality)))
    for file in place.iterdir():
        file.unlink()
    encoder = build_encoder("auto", modality, 4, options=options).eval()
    assert str(tmp_path) not in json.dumps(options)
    shown = AS_STORED.show(torch.from_numpy(families.samples(modality, 3)), modality, None)
    assert encoder(shown).shape == (3, 4)
    assert encoder(shown[:0]).shape == (0, 4)
    assert not [key for key in encoder.state_dict() if not key.startswith(("trunk.", "output."))]


@pytest.mark.parametrize("name", ["vit", "whisper"])
def test_the_processor_computes_in_float32(tmp_path: Path, name: str) -> None:
    place, modality = families.save(tmp_path / name, name), families.family(name).modality
    shown = AS_STORED.show(torch.from_numpy(families.samples(modality, 2)), modality, None)
    encoder = _model(place, modality).branch(modality.name).encoder
    given: list[torch.Tensor] = []
    encoder.trunk.register_forward_pre_hook(
        lambda module, args, kwargs: given.extend(kwargs.values()), with_kwargs=True
    )
    with torch.inference_mode():
        plain = encoder.features(shown)
        encoder.in_bfloat16 = True
        narrow = encoder.features(shown)
    assert torch.equal(given[0], given[1])
    assert given[1].dtype == torch.float32
    assert 0 < float((plain - narrow).abs().max()) < 0.1 * max(1.0, float(plain.abs().max()))


def test_frames_are_averaged(tmp_path: Path) -> None:
    place = families.save(tmp_path / "vit", "vit")
    clip = ModalitySpec(
        "image",
        "frames",
        (3, *families.IMAGE.shape),
        "uint8",
        families.IMAGE.mean,
        families.IMAGE.std,
    )
    stored = families.samples(clip, 2)
    single = [_features(place, families.IMAGE, stored[:, frame]) for frame in range(3)]
    assert torch.allclose(_features(place, clip, stored), torch.stack(single).mean(0), atol=1e-5)


def test_a_grey_image_is_seen_in_all_channels(tmp_path: Path) -> None:
    place = families.save(tmp_path / "vit", "vit")
    grey = ModalitySpec("image", "image", (1, 36, 40), "uint8", 100.0, 50.0)
    stored = families.samples(grey, 3)
    found = _features(place, grey, stored)
    assert torch.allclose(
        found, _features(place, families.IMAGE, np.repeat(stored, 3, axis=1)), atol=1e-5
    )


def test_a_tokenizer_says_how_its_tokens_are_stored(tmp_path: Path) -> None:
    place = families.save(tmp_path / "bert", "bert")
    families.save_tokenizer(place, padding=7)
    assert _options(place, families.TEXT)["processor"] == {"pad_token_id": 7}
    plain = families.save(tmp_path / "plain", "bert")
    tokens = families.samples(families.TEXT, 4)
    higher = np.where(tokens > 0, tokens + 1, 0).astype(np.int32)
    found, expected = (
        _features(place, families.TEXT, higher),
        _features(plain, families.TEXT, tokens),
    )
    assert torch.allclose(found, expected, atol=1e-6)


def test_weights_of_a_model_with_a_head_and_in_shards_are_read(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    torch.manual_seed(0)
    model = ViTForImageClassification(families.family("vit").config)
    model.save_pretrained(tmp_path / "vit", max_shard_size="8KB")
    assert len(list((tmp_path / "vit").glob("*.safetensors"))) > 1
    found = _model(tmp_path / "vit", families.IMAGE).branch("image").encoder.trunk.state_dict()
    assert all(torch.equal(value, model.vit.state_dict()[name]) for name, value in found.items())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    place = families.save(tmp_path / "vit", "vit")
    state = load_file(place / "model.safetensors")
    lacking = sorted(state)[0]
    save_file(
        {name: value for name, value in state.items() if name != lacking},
        place / "model.safetensors",
    )
    with pytest.raises(PretrainedError, match=r"its weights lack '.*' \(1 in all\)"):
        _model(place, families.IMAGE)
    (place / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"no \.safetensors; the trunk of modality 'image'"):
        _model(place, families.IMAGE)
    (place / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(PretrainedError, match="its weights cannot be loaded"):
        _model(place, families.IMAGE)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    place = families.save(tmp_path / "vit", "vit")
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"no \.safetensors"):
        _model(place, families.IMAGE)


@pytest.mark.parametrize(
    ("name", "modality", "words"),
    [
        (
            "vit",
            families.TEXT,
            "ViTModel reads pixel_values; modality 'text' is tokens, which is input_ids",
        ),
        ("bert", families.IMAGE, "BertModel reads input_ids; modality 'image' is image"),
        (
            "vit",
            ModalitySpec("image", "image", (2, 8, 8), "uint8"),
            "2 channels, the model reads 3",
        ),
        (
            "vit",
            ModalitySpec("image", "image", (3, 8, 8), "float32"),
            "images of float32.*kind `image`",
        ),
        (
            "wav2vec2",
            ModalitySpec("sound", "series", (6, 800), "float32"),
            "6 channels.*kind `waveform`",
        ),
        (
            "whisper",
            ModalitySpec("sound", "series", (1, 16001), "float32"),
            "16001 points, the model reads 16000",
        ),
        (
            "bert",
            ModalitySpec("text", "tokens", (17,), "int32"),
            "17 tokens, but the model has 16 positions",
        ),
        (
            "roberta",
            ModalitySpec("text", "tokens", (15,), "int32"),
            "15 tokens, but the model has 14 positions",
        ),
    ],
)
def test_what_a_model_cannot_read_is_refused(
    tmp_path: Path, name: str, modality: ModalitySpec, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        _model(families.save(tmp_path / name, name), modality)


def test_directories_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"config\.json: missing, or without model_type"):
        _options(tmp_path, families.IMAGE)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such"}))
    with pytest.raises(
        ValueError, match="model_type 'no-such', which the installed transformers does not know"
    ):
        _model(tmp_path, families.IMAGE)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "vit", "quantization_config": {"bits": 4}})
    )
    with pytest.raises(PretrainedError, match="quantised weights"):
        _options(tmp_path, families.IMAGE)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"preprocessor_config\.json: not JSON"):
        _options(tmp_path, families.IMAGE)
    with pytest.raises(PretrainedError, match="no such directory"):
        _options(tmp_path / "none", families.IMAGE)
    with pytest.raises(ValueError, match=r"which model\? .*encoder = 'image=auto:DIR'"):
        build_encoder("auto", families.IMAGE, 4)


def test_the_encoder_key_names_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my vit").mkdir()
    monkeypatch.chdir(tmp_path)
    text = "image='auto:my vit' text=auto:org/bert sound=small-cnn"
    names = ("image", "text", "sound")
    assert encoder_names(text, names) == {"image": "auto", "text": "auto", "sound": "small-cnn"}
    absolute = absolute_encoders(text)
    assert auto_locations(absolute, names) == {"image": f"{tmp_path}/my vit", "text": "org/bert"}
    assert portable_encoders(absolute) == "image=auto text=auto:org/bert sound=small-cnn"
    assert auto_locations("auto:/w=1", names) == dict.fromkeys(names, "/w=1")
    assert absolute_encoders("small-cnn") == portable_encoders("small-cnn") == "small-cnn"
    with pytest.raises(ConfigError, match="after 'auto:'"):
        auto_locations("image=auto:", names)
    with pytest.raises(ConfigError, match="close each quotation mark"):
        auto_locations("image='auto:a", names)
    with pytest.raises(
        ConfigError, match=r"modality 'image': encoder names '/a' and pretrained '/b'"
    ):
        locations_of(_config("image=auto:/a text=bert", "image=/b"), ("image", "text"))
    assert locations_of(_config("image=auto text=bert", "image=/b"), ("image", "text")) == {
        "image": "/b"
    }


def test_a_processor_of_another_rate_is_refused(tmp_path: Path) -> None:
    options = {"sound": _options(families.save(tmp_path / "w", "wav2vec2"), families.WAVE)}
    check_recipes(options, {"sound": {"maker": "waveform", "rate_hz": 16000}})
    with pytest.raises(
        ConfigError, match="stored at 8000 Hz, but the model of its encoder hears 16000 Hz"
    ):
        check_recipes(options, {"sound": {"maker": "waveform", "rate_hz": 8000}})
