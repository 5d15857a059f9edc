"""gru, transformer-1d, bag-of-words and text-cnn.

What they learn, ignore, and give when exported.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kinds
import numpy as np
import pytest
import saved
import torch
from torch import Tensor, nn

from fedcmi_flwr.client.adamw import AdamW
from fedcmi_flwr.inference.export import export_model, random_samples
from fedcmi_flwr.inference.predictor import Predictor
from fedcmi_flwr.models.encoders import Encoder, build_encoder
from fedcmi_flwr.models.encoders.sequence import places

SERIES = ("gru", "transformer-1d")
WORDS = ("bag-of-words", "text-cnn")


def rising_or_falling(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return series of which each channel has the same values in both classes, in the opposite
    order.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    line = torch.linspace(-1, 1, 50)
    noise = 0.3 * torch.randn(count, 6, 50, generator=generator)
    return torch.where(labels.reshape(-1, 1, 1) > 0, line, line.flip(0)) + noise, labels


def learned(
    encoder: Encoder, draw: Callable[[int, int], tuple[Tensor, Tensor]], steps: int = 40
) -> float:
    """Train on 64 samples and return the accuracy on 100 others."""
    x, labels = draw(64, 1)
    optimizer = AdamW(encoder.train().parameters(), 0.005)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(encoder(x), labels).backward()
        optimizer.step()
    unseen, expected = draw(100, 2)
    return float((encoder.eval()(unseen).argmax(1) == expected).float().mean())


def build(name: str, **options: int) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, kinds.SERIES if name in SERIES else kinds.TOKENS, 2, options=options)


@pytest.mark.parametrize("name", SERIES)
def test_the_order_of_moments_is_learned(name: str) -> None:
    """Its mean over time says nothing of the class."""
    assert learned(build(name), rising_or_falling) > 0.95


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("time", [1, 3, 4, 51])
def test_series_of_any_length_and_empty_batches(name: str, time: int) -> None:
    encoder = build_encoder(name, replace(kinds.SERIES, shape=(6, time)), 4).eval()
    for count in (0, 1, 3):
        assert encoder(torch.randn(count, 6, time)).shape == (count, 4)
    last = torch.zeros(1, 6, time)
    last[:, :, -1] = 1.0
    # No moment is cut off
    assert not torch.allclose(encoder(last), encoder(torch.zeros(1, 6, time)))


def test_places_by_hand() -> None:
    expected = [[0.0, 0.0, 1.0, 1.0], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]]
    assert np.allclose(places(2, 4), expected, atol=1e-6)


@pytest.mark.parametrize("name", WORDS)
def test_padding_and_batches_change_nothing(name: str) -> None:
    encoder = build(name).eval()
    text = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
    assert torch.allclose(encoder(text), encoder(text[:, :3]), atol=1e-6)
    assert not torch.allclose(
        encoder(text), encoder(torch.tensor([[5, 6, 8, 0, 0, 0, 0, 0]])), atol=1e-3
    )
    assert not torch.allclose(encoder(text), encoder(text[:, :2]), atol=1e-3)
    assert torch.equal(encoder(torch.zeros(1, 8, dtype=torch.long)), encoder.output(encoder.output.weight.new_zeros(
        1, encoder.output.in_features)))  # fmt: skip
    assert encoder(torch.zeros(0, 8, dtype=torch.long)).shape == (0, 2)


@pytest.mark.parametrize("name", WORDS)
def test_tokens_beyond_the_table_share_its_rows(name: str) -> None:
    encoder = build(name, buckets=10).eval()
    text = torch.tensor([[1, 10, 4, 0]])
    assert torch.equal(encoder(text), encoder(torch.tensor([[11, 20, 2_000_000_004, 0]])))
    assert not torch.equal(encoder(text), encoder(torch.tensor([[2, 10, 4, 0]])))


def test_the_order_of_words_counts_for_the_cnn_alone() -> None:
    text, turned = torch.tensor([[3, 1, 4, 2, 5]]), torch.tensor([[5, 2, 4, 1, 3]])
    bag, cnn = (build(name).eval() for name in WORDS)
    assert torch.allclose(bag(text), bag(turned), atol=1e-6)
    assert not torch.allclose(cnn(text), cnn(turned), atol=1e-3)


@pytest.mark.parametrize("name", SERIES + WORDS)
def test_a_saved_model_is_exported_to_onnx(name: str, tmp_path: Path) -> None:
    """The exporter itself compares the graph with the model, for several batch sizes."""
    modality = kinds.SERIES if name in SERIES else kinds.TOKENS
    path = saved.save(
        tmp_path / "model.safetensors", [modality], encoders={modality.name: name}, options={}
    )
    graph, _ = export_model(path, tmp_path / "graphs", "onnx", [(modality.name,)])
    assert graph.is_file()
    predictor = Predictor.load(path, "cpu")
    samples = random_samples(modality, predictor, 3, 0).numpy()
    assert predictor.predict_proba({modality.name: samples}).shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gru", {"depth": 3}, "'gru' has no options, found .*depth"),
        (
            "transformer-1d",
            {"width": 12, "heads": 4},
            "width = 12 must be a multiple of twice its heads",
        ),
        ("bag-of-words", {"channels": 3}, "'bag-of-words' has no options"),
        ("text-cnn", {"depth": 3}, "'text-cnn' has no options"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    name: str, options: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


def test_in_bfloat16_they_give_nearly_the_same() -> None:
    for name in SERIES + WORDS:
        encoder = build(name).eval()
        x = (
            rising_or_falling(3, 1)[0]
            if name in SERIES
            else torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
        )
        expected = encoder(x)
        encoder.in_bfloat16 = True
        assert torch.allclose(encoder(x), expected, atol=0.1), name
