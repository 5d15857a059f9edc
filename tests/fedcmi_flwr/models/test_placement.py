"""Where and how a node computes.

Number format and layout of the encoders, samples that stay on the device.
"""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.data import samples as samples_module
from fedcmi_flwr.data.samples import Samples, room_on
from fedcmi_flwr.data.views import Views
from fedcmi_flwr.models import placement
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.models.placement import has_bfloat16, place
from fedcmi_flwr.wire.tensors import to_arrays

TWO = ("audio", "visual")
CPU = torch.device("cpu")


def _model() -> MultimodalModel:
    """Return a large encoder for audio and a small one for visual, in eval mode."""
    return oracle.model(encoders={"audio": "resnet18", "visual": "small-cnn"}).float().eval()


@pytest.mark.parametrize(
    ("precision", "native", "expected"),
    [
        ("fp32", True, (False, False)),
        ("bf16", False, (True, True)),
        ("auto", True, (True, False)),
        ("auto", False, (False, False)),
    ],
)
def test_which_encoders_compute_in_bfloat16(
    precision: str, native: bool, expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "has_bfloat16", lambda device: native)
    model = _model()
    place(model, CPU, precision)
    assert tuple(model.branch(name).encoder.in_bfloat16 for name in TWO) == expected


@pytest.mark.parametrize(
    ("found", "native"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True)],
)
def test_a_cpu_has_bfloat16_when_it_says_so(
    found: dict, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert has_bfloat16(CPU) == native


def test_bfloat16_is_the_trunks_alone() -> None:
    """Z's values differ from float32's by bfloat16's 8 bits.

    Weights, z, logits and gradients stay float32.
    """
    plain, half, batch = _model(), _model(), oracle.batch([[1, 1]] * 4)
    batch = replace(batch, inputs={name: value.float() for name, value in batch.inputs.items()})
    place(half, CPU, "bf16")
    formats = []
    for name in TWO:
        convolution = next(
            m for m in half.branch(name).encoder.trunk.modules() if isinstance(m, torch.nn.Conv2d)
        )
        convolution.register_forward_hook(lambda _, __, result: formats.append(result.dtype))
    expected, found = plain(batch), half(batch)
    assert formats == [torch.bfloat16, torch.bfloat16]
    for name in TWO:
        a, b = (output.self_embeddings[name].detach() for output in (found, expected))
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)
        assert float((a - b).abs().max()) < 0.05 * float(b.abs().max())
    found.fused_logits.sum().backward()
    assert {w.dtype for w in half.parameters()} == {torch.float32}
    assert {w.grad.dtype for w in half.parameters() if w.grad is not None} == {torch.float32}


def test_large_encoders_have_channels_last_and_give_the_same_to_rounding() -> None:
    plain, placed, batch = _model().double(), _model().double(), oracle.batch([[1, 1]] * 4)
    for name in TWO:
        plain.branch(name).encoder.large = False
    place(placed, CPU, "fp32")
    assert placed.get_parameter("branches.visual.encoder.trunk.3.weight").is_contiguous()
    deep = placed.get_parameter("branches.audio.encoder.trunk.layer1.0.conv1.weight")
    assert deep.is_contiguous(memory_format=torch.channels_last)
    assert not deep.is_contiguous()
    expected, found = plain(batch).fused_logits, placed(batch).fused_logits
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    arrays, unplaced = to_arrays(placed.trained_state()), to_arrays(plain.trained_state())
    assert all(
        array.flags.c_contiguous and np.array_equal(array, unplaced[name])
        for name, array in arrays.items()
    )


def _some() -> Samples:
    samples = oracle.samples(12)
    samples.has[5, 1] = False
    return samples.select(np.array([11, 5, 2, 7, 0]))


def test_resident_samples_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five samples of two modalities, 16 x 16 float32: 10,240 bytes."""
    monkeypatch.setattr(samples_module, "PIECE", 2)
    samples = _some()
    assert samples.resident(CPU, 10_239) is samples
    resident = samples.resident(CPU, 10_240)
    assert all(
        isinstance(array, torch.Tensor) and len(array) == 5 for array in resident.arrays.values()
    )
    assert len(resident) == 5
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    for views in (Views(), Views(("audio",), size=8)):
        epochs = [
            list(
                replace(one, views=views).training_batches(
                    2, TWO, g, CPU, torch.Generator().manual_seed(2)
                )
            )
            for one, g in zip((samples, resident), generators, strict=True)
        ]
        assert len(epochs[0]) == len(epochs[1]) == 2
        for before, after in zip(*epochs, strict=True):
            for left, right in zip(_tensors(before), _tensors(after), strict=True):
                assert torch.equal(left, right)
            assert before.complete == after.complete


def _tensors(batch: object) -> list[torch.Tensor]:
    return [*batch.inputs.values(), batch.labels, batch.present, batch.indices]


def test_resident_frames_are_drawn_as_stored_ones_are() -> None:
    rng = np.random.default_rng(0)
    clip = replace(oracle.inputs("visual")[0], kind="frames", shape=(6, 1, 4, 4))
    arrays = {"visual": rng.normal(size=(4, 6, 1, 4, 4)).astype(np.float32)}
    has, rows = np.ones((4, 1), dtype=bool), np.array([3, 1])
    samples = Samples(
        (clip,), arrays, np.zeros(4, dtype=np.int64), np.full(4, "g"), has, rows, Views(frames=2)
    )
    drawn = [
        one.batch(np.array([1, 0]), ("visual",), CPU, torch.Generator().manual_seed(4)).inputs[
            "visual"
        ]
        for one in (samples, samples.resident(CPU, 10**6))
    ]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (2, 2, 1, 4, 4)


def test_nothing_moves_to_where_it_is_already() -> None:
    assert room_on(CPU) == 0
