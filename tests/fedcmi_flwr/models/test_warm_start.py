"""What a model takes over from another one.

Weights by modality and by class, each where it belongs.
"""

from typing import Any

import oracle
import pytest
import torch

from fedcmi_flwr.models.file import CheckpointError
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.models.warm_start import take_over

FUSIONS = ("concat", "sum", "gated", "film")
DIM = 4


def model(
    modalities: tuple[str, ...], classes: int, fusion: str, seed: int, **changes: Any
) -> MultimodalModel:
    torch.manual_seed(seed)
    encoders = dict.fromkeys(modalities, "small-cnn")
    fields = {"embedding_dim": DIM, "projector": "linear", "structure": "two-projectors", **changes}
    spec = ModelSpec(modalities, classes, encoders=encoders, fusion=fusion, **fields)
    return MultimodalModel(spec, oracle.inputs(*modalities))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_same_model_is_taken_over_whole(fusion: str) -> None:
    new, old = (model(("audio", "visual"), 3, fusion, seed) for seed in (0, 1))
    taken = take_over(new, "abc", old, "abc")
    assert set(taken) == set(new.state_dict())
    assert all(
        torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items()
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_another_order_of_classes_predicts_the_same_class(fusion: str) -> None:
    new, old = (model(("audio", "visual"), 3, fusion, seed).eval() for seed in (0, 1))
    take_over(new, "cab", old, "abc")
    slots = torch.randn(5, 2, DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(new.fusion(slots), old.fusion(slots)[:, [2, 0, 1]])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_a_modality_and_a_class_join(fusion: str) -> None:
    """With the new modality's slot at zero, and its bias away, the old classes have their old
    logits.
    """
    new, old = (
        model(("touch", "audio", "visual"), 4, fusion, 0),
        model(("visual", "audio"), 3, fusion, 1),
    )
    before = {name: value.clone() for name, value in new.state_dict().items()}
    taken = take_over(new, "xcba", old, "abc")
    assert not any("touch" in name for name in taken)
    assert torch.equal(
        new.state_dict()["branches.touch.classifier.weight"],
        before["branches.touch.classifier.weight"],
    )
    for name in ("branches.audio.classifier.weight", "branches.visual.classifier.bias"):
        assert torch.equal(new.state_dict()[name][1:], old.state_dict()[name].flip(0))
        assert torch.equal(new.state_dict()[name][0], before[name][0])

    slots = torch.randn(5, 3, DIM, generator=torch.Generator().manual_seed(0))
    slots[:, 0] = 0
    if fusion == "sum":
        torch.nn.init.zeros_(new.fusion.outputs[0].bias)
    expected = old.fusion(slots[:, [2, 1]])
    assert torch.allclose(new.fusion(slots)[:, 1:], expected.flip(1), atol=1e-6)


def test_what_does_not_fit_is_named() -> None:
    new, old = (
        model(("audio", "visual"), 3, "concat", 0),
        model(("audio",), 3, "concat", 1, embedding_dim=DIM + 1),
    )
    with pytest.raises(
        CheckpointError, match=r"is \[.*\] in the model and \[.*\] in the run: .* embedding-dim"
    ):
        take_over(new, "abc", old, "abc")
    with pytest.raises(CheckpointError, match="none of the run's modalities"):
        take_over(model(("visual",), 3, "concat", 0), "abc", old, "abc")
    with pytest.raises(CheckpointError, match="none of the run's classes"):
        take_over(new, "abc", old, "xyz")
