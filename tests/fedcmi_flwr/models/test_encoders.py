"""Encoders by kind: frames are averaged, padding is masked, and a frozen trunk stays as it is."""

import sys
from dataclasses import replace
from typing import Any

import kinds
import pytest
import torch
from torch import nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders import ENCODERS, Encoder, build_encoder
from fedcmi_flwr.models.encoders.base import norm_groups

READS = [
    ("small-cnn", kinds.SPECTROGRAM),
    ("small-cnn", kinds.IMAGE),
    ("small-cnn", kinds.FRAMES),
    ("resnet18", kinds.SPECTROGRAM),
    ("resnet18", kinds.FRAMES),
    ("densenet121", kinds.IMAGE),
    ("densenet121", kinds.FRAMES),
    ("bert", kinds.TOKENS),
    ("cnn-1d", kinds.SERIES),
    ("gru", kinds.SERIES),
    ("transformer-1d", kinds.SERIES),
    ("bag-of-words", kinds.TOKENS),
    ("text-cnn", kinds.TOKENS),
    ("mlp", kinds.VECTOR),
]
UNNORMALISED = ("bert", "gru", "transformer-1d", "bag-of-words", "text-cnn")
"""What has no norm whose kind the run chooses."""


def _build(name: str, modality: ModalitySpec, dim: int = 4, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, modality, dim, **{"options": kinds.TINY.get(name), **options})


def _inputs(modality: ModalitySpec, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if modality.kind == "tokens":
        return torch.randint(1, 40, (count, *modality.shape), generator=generator)
    return torch.randn(count, *modality.shape, generator=generator)


@pytest.mark.parametrize(("name", "modality"), READS)
@pytest.mark.parametrize("normalization", ["batch", "group"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_encoder_reads_its_kinds(
    name: str, modality: ModalitySpec, normalization: str, frozen: bool
) -> None:
    encoder = _build(name, modality, normalization=normalization, frozen=frozen).train()
    z = encoder(_inputs(modality))
    assert z.shape == (3, 4)
    z.sum().backward()
    trained = {
        name.partition(".")[0]
        for name, value in encoder.named_parameters()
        if value.grad is not None
    }
    assert trained == ({"output"} if frozen else {"trunk", "output"})
    batched = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert bool(batched) == (normalization == "batch" and name not in UNNORMALISED)


def test_every_kind_has_an_encoder() -> None:
    assert {kind for encoder in ENCODERS.values() for kind in encoder.kinds} == {
        "spectrogram", "image", "frames", "tokens", "series", "vector",
    }  # fmt: skip


def test_linear_is_one_layer_and_an_mlp_has_the_widths_that_it_is_given() -> None:
    """5 features to 4 numbers by hand; 5 x 7 + 7 weights, those of a norm of 7, and 7 x 4 + 4."""
    encoder = _build("linear", kinds.VECTOR, options=None)
    x = _inputs(kinds.VECTOR)
    assert torch.allclose(encoder(x), x @ encoder.output.weight.T + encoder.output.bias)
    assert sum(weight.numel() for weight in encoder.parameters()) == 5 * 4 + 4
    assert [name for name, weight in _build("linear", kinds.VECTOR, frozen=True).named_parameters()
            if weight.requires_grad] == ["output.weight", "output.bias"]  # fmt: skip
    mlp = _build("mlp", kinds.VECTOR, options={"widths": [7]})
    assert sum(weight.numel() for weight in mlp.parameters()) == 5 * 7 + 7 + 2 * 7 + 7 * 4 + 4
    with pytest.raises(ValueError, match=r"encoder 'mlp' has no options, found \{'depth': 3\}"):
        _build("mlp", kinds.VECTOR, options={"depth": 3})


def test_an_mlp_without_batch_norm_reads_samples_alone() -> None:
    encoder, x = (
        _build("mlp", kinds.VECTOR, normalization="group").train(),
        _inputs(kinds.VECTOR, 4),
    )
    alone = torch.cat([encoder(row) for row in x.split(1)])
    assert torch.allclose(encoder(x), alone, atol=1e-6)


@pytest.mark.parametrize("name", ["small-cnn", "resnet18", "densenet121"])
def test_the_features_of_frames_are_averaged_over_time(name: str) -> None:
    encoder = _build(name, kinds.FRAMES).eval()
    frames = _inputs(kinds.FRAMES)
    features = torch.stack([encoder.trunk(frames[:, moment]) for moment in range(6)])
    expected = encoder.output(features.mean(0))
    assert torch.allclose(encoder(frames), expected, atol=1e-5)
    assert torch.allclose(encoder(frames.flip(1)), expected, atol=1e-5)


def test_padding_does_not_count() -> None:
    """The z of three tokens is that of the same three with any padding behind, and the third one
    counts.
    """
    encoder = _build("bert", kinds.TOKENS).eval()
    for weight in encoder.trunk.parameters():
        nn.init.normal_(weight, std=0.4)  # BERT's own start is so small that tokens hardly matter
    text = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
    assert torch.allclose(encoder(text), encoder(text[:, :3]), atol=1e-5)
    assert not torch.allclose(
        encoder(text), encoder(torch.tensor([[5, 6, 8, 0, 0, 0, 0, 0]])), atol=1e-2
    )
    assert not torch.allclose(encoder(text), encoder(text[:, :2]), atol=1e-2)


@pytest.mark.parametrize("mode", [True, False])
def test_an_empty_text_and_an_empty_batch_have_a_z(mode: bool) -> None:
    encoder = _build("bert", kinds.TOKENS).train(mode)
    assert encoder(torch.zeros(2, 8, dtype=torch.long)).isfinite().all()
    assert encoder(torch.zeros(0, 8, dtype=torch.long)).shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "modality", "width"), [("resnet18", kinds.IMAGE, 512), ("densenet121", kinds.IMAGE, 12),
                                    ("bert", kinds.TOKENS, 16)],
)  # fmt: skip
def test_the_output_layer_is_left_out_where_the_trunk_fits(
    name: str, modality: ModalitySpec, width: int
) -> None:
    assert isinstance(_build(name, modality, width).output, nn.Identity)
    assert isinstance(_build(name, modality, width, frozen=True).output, nn.Linear)
    other = _build(name, modality, 4).output
    assert isinstance(other, nn.Linear)
    assert (other.in_features, other.out_features) == (width, 4)


def test_the_papers_sizes() -> None:
    """DenseNet-121 ends in 1,000 numbers and has 7,978,856 weights (torchvision's page).

    ResNet-18 ends in 512.
    """
    dense = build_encoder("densenet121", kinds.IMAGE, 1000)
    assert isinstance(dense.output, nn.Identity)
    assert sum(weight.numel() for weight in dense.parameters()) == 7_978_856
    res = build_encoder("resnet18", kinds.IMAGE, 512)
    assert sum(weight.numel() for weight in res.parameters()) == 11_689_512 - 513 * 1000
    with torch.device("meta"):
        bert = build_encoder("bert", kinds.TOKENS, 512)
    assert (bert.output.in_features, bert.output.out_features) == (768, 512)
    assert sum(weight.numel() for weight in bert.trunk.parameters()) == 109_482_240


def test_a_frozen_trunk_ignores_the_mode_and_forgets_nothing() -> None:
    encoder = _build("densenet121", kinds.IMAGE, frozen=True)
    before = {name: value.clone() for name, value in encoder.trunk.state_dict().items()}
    x = _inputs(kinds.IMAGE)
    trained, evaluated = encoder.train()(x), encoder.eval()(x)
    assert torch.equal(trained, evaluated)
    assert encoder.train().training
    assert not any(module.training for module in encoder.trunk.modules())
    assert all(
        torch.equal(value, before[name]) for name, value in encoder.trunk.state_dict().items()
    )


@pytest.mark.parametrize(
    ("width", "groups"), [(64, 8), (8, 8), (16, 8), (12, 6), (20, 5), (15, 5), (7, 7), (11, 1)]
)
def test_groups_divide_every_width(width: int, groups: int) -> None:
    assert norm_groups(width) == groups


@pytest.mark.parametrize(
    ("name", "modality", "options", "words"),
    [
        (
            "bert",
            kinds.IMAGE,
            None,
            r"'bert' reads samples of tokens \[time\]; modality 'image' is image of shape",
        ),
        ("cnn-1d", kinds.TOKENS, None, r"series \[channels, time\]; modality 'text' is tokens"),
        ("densenet121", kinds.SPECTROGRAM, None, "image .* or frames .*'audio' is spectrogram"),
        ("small-cnn", kinds.IMAGE, {"width": 3}, "'small-cnn' has no options, found .*width"),
        ("cnn-1d", kinds.SERIES, {"width": 3}, "'cnn-1d' has no options"),
        (
            "densenet121",
            kinds.IMAGE,
            {"depth": 3},
            "'densenet121' of modality 'image': options .*'depth'",
        ),
        (
            "bert",
            replace(kinds.TOKENS, shape=(17,)),
            kinds.TINY["bert"],
            "'text': samples of 17 tokens.* 16 positions",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, modality: ModalitySpec, options: dict[str, Any] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build_encoder(name, modality, 4, options=options)


def test_without_transformers_bert_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"package transformers .* pip install 'fedcmi-flwr\[text\]'"
    ):
        build_encoder("bert", kinds.TOKENS, 4)
