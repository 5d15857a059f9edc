"""The model: slots by hand, every fusion and projector, and absent samples that touch nothing."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders import build_encoder
from fedcmi_flwr.models.fusion import FUSIONS, fill_slots
from fedcmi_flwr.models.multimodal import (
    STRUCTURES,
    MultimodalModel,
    build_projector,
    mask_for,
    parameter_groups,
)
from fedcmi_flwr.types import ModelOutput

THREE = ("audio", "visual", "touch")
ALL_PRESENT = [[1, 1, 1]] * 4
SOME_ABSENT = [[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]]


def test_two_modalities_fill_with_the_others_infiltration() -> None:
    u, q = torch.tensor([[[1.0], [2.0]]] * 4), torch.tensor([[[10.0], [20.0]]] * 4)
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
    assert fill_slots(u, q, present).squeeze(2).tolist() == [[1, 2], [1, 10], [20, 2], [0, 0]]


def test_three_modalities_fill_with_the_mean_of_what_is_present() -> None:
    u, q = torch.tensor([[[1.0], [2.0], [3.0]]] * 3), torch.tensor([[[10.0], [20.0], [40.0]]] * 3)
    present = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    assert fill_slots(u, q, present).squeeze(2).tolist() == [[1, 2, 15], [30, 2, 3], [40, 40, 3]]


@pytest.mark.parametrize("seed", range(3))
def test_slots_are_the_oracles(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    u, q = torch.randn(2, 8, 4, 5, generator=generator).double()
    present = torch.rand(8, 4, generator=generator) > 0.5
    assert fill_slots(u, q, present).numpy() == pytest.approx(
        oracle.fill(u.numpy(), q.numpy(), present.numpy())
    )


@pytest.mark.parametrize("modalities", [THREE[:2], THREE])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_kind_gives_logits(
    fusion: str, projector: str, structure: str, modalities: tuple[str, ...]
) -> None:
    model = oracle.model(modalities, fusion=fusion, projector=projector, structure=structure)
    columns = range(len(modalities))
    output = model(oracle.batch([row[: len(modalities)] for row in ALL_PRESENT], columns))
    assert output.fused_logits.shape == (4, 3)
    assert set(output.self_embeddings) == set(modalities)
    infiltrates = structure in ("two-projectors", "one-projector")
    for values, size, there in (
        (output.infiltration_embeddings, 4, infiltrates),
        (output.self_logits, 3, structure != "fusion"),
        (output.infiltration_logits, 3, infiltrates),
    ):
        assert {name: tuple(value.shape) for name, value in values.items()} == (
            dict.fromkeys(modalities, (4, size)) if there else {}
        )
    output.fused_logits.sum().backward()
    deciding = model.branches if structure == "unimodal" else model.fusion
    assert all(parameter.grad is not None for parameter in deciding.parameters())
    assert hasattr(model, "fusion") == (structure != "unimodal")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_slots_of_every_fusion_matter(fusion: str) -> None:
    model = oracle.model(THREE, fusion=fusion)
    slots = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    before = model.fusion(slots)
    for slot in range(3):
        changed = slots.clone()
        changed[:, slot] += 1
        assert not torch.allclose(model.fusion(changed), before)


def test_concat_and_sum_fusion_by_hand() -> None:
    model = oracle.model(fusion="concat")
    slots = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    weight, bias = model.fusion.output.weight, model.fusion.output.bias
    expected = slots[:, 0] @ weight[:, :4].T + slots[:, 1] @ weight[:, 4:].T + bias
    assert torch.allclose(model.fusion(slots), expected)
    fusion = oracle.model(fusion="sum").fusion
    first, second = fusion.outputs
    summed = slots[:, 0] @ first.weight.T + first.bias + slots[:, 1] @ second.weight.T + second.bias
    assert torch.allclose(fusion(slots), summed)


def test_film_and_gated_fusion_by_hand() -> None:
    slots = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    film = oracle.model(fusion="film").fusion
    modulation = slots[:, 0] @ film.conditions[0].weight.T + film.conditions[0].bias
    hidden = modulation[:, :4] * slots[:, 1] + modulation[:, 4:]
    assert torch.allclose(film(slots), hidden @ film.output.weight.T + film.output.bias)
    gated = oracle.model(fusion="gated").fusion
    parts = []
    for m in range(2):
        gate = 1 / (1 + (-(slots[:, m] @ gated.gates[m].weight.T + gated.gates[m].bias)).exp())
        parts.append(gate * (slots[:, m] @ gated.values[m].weight.T + gated.values[m].bias))
    assert torch.allclose(
        gated(slots), (parts[0] + parts[1]) @ gated.output.weight.T + gated.output.bias
    )


def test_the_outputs_are_what_the_words_say() -> None:
    model, batch = oracle.model().eval(), oracle.batch([[1, 1]] * 3)
    output = model(batch)
    branch, x = model.branch("audio"), batch.inputs["audio"]
    z = branch.encoder(x)
    assert torch.allclose(output.self_embeddings["audio"], branch.self_projector(z))
    assert torch.allclose(output.infiltration_embeddings["audio"], branch.infiltration_projector(z))
    assert torch.allclose(output.self_logits["audio"], branch.classifier(branch.self_projector(z)))
    assert torch.allclose(
        output.infiltration_logits["audio"], branch.classifier(branch.infiltration_projector(z))
    )
    assert torch.equal(branch.self_logits(x), output.self_logits["audio"])
    plain = oracle.model(structure="fusion").eval()
    assert torch.equal(plain(batch).self_embeddings["audio"], plain.branch("audio").encoder(x))


def _rows(output: ModelOutput, rows: torch.Tensor) -> list[torch.Tensor]:
    parts = (
        output.self_embeddings,
        output.infiltration_embeddings,
        output.self_logits,
        output.infiltration_logits,
    )
    return [part["audio"][rows] for part in parts]


@pytest.mark.parametrize("training", [True, False])
def test_absent_samples_touch_nothing(training: bool) -> None:
    """The audio branch sees the present rows alone.

    Same outputs, same running statistics, zeros elsewhere.
    """
    with_absent, alone = oracle.model(THREE).train(training), oracle.model(THREE).train(training)
    batch = oracle.batch(SOME_ABSENT, range(3))
    batch.inputs["audio"][~batch.present[:, 0]] = 1e6  # garbage that must not be looked at
    rows = batch.present[:, 0]
    whole = with_absent(batch)
    encoder = alone.branch("audio")
    z = encoder.encoder(batch.inputs["audio"][rows])
    u, q = encoder.self_projector(z), encoder.infiltration_projector(z)
    expected = [u, q, encoder.classifier(u), encoder.classifier(q)]
    for found, value in zip(_rows(whole, rows), expected, strict=True):
        assert torch.allclose(found, value)
    assert all(not part.any() for part in _rows(whole, ~rows))
    for name, buffer in with_absent.branch("audio").named_buffers():
        assert torch.equal(buffer, alone.branch("audio").get_buffer(name)), name


def test_fused_logits_of_incomplete_samples_use_the_fill() -> None:
    model, batch = oracle.model(THREE).eval(), oracle.batch(SOME_ABSENT, range(3))
    output = model(batch)
    u, q = (
        torch.stack([values[name] for name in THREE], dim=1).detach().numpy()
        for values in (output.self_embeddings, output.infiltration_embeddings)
    )
    slots = torch.from_numpy(oracle.fill(u, q, batch.present.numpy()))
    assert torch.allclose(output.fused_logits, model.fusion(slots))


def test_owned_subset_builds_its_branches_only_and_fills_the_rest() -> None:
    """Audio alone of three: its u in the first slot, its q in both others.

    The weights are the whole model's.
    """
    whole, mine = oracle.model(THREE), oracle.model(THREE, owned=("audio",))
    mine.load_state_dict(
        {name: value for name, value in whole.state_dict().items() if name in mine.state_dict()}
    )
    assert mine.owned == ("audio",)
    assert {name.split(".")[1] for name in mine.state_dict() if name.startswith("branches.")} == {
        "audio"
    }
    batch = oracle.batch([[1, 0, 0]] * 4, (0,))
    output = mine.eval()(batch)
    u, q = output.self_embeddings["audio"], output.infiltration_embeddings["audio"]
    assert torch.allclose(output.fused_logits, whole.fusion(torch.stack([u, q, q], dim=1)))


def test_plain_model_fills_with_zeros() -> None:
    model = oracle.model(owned=("visual",), structure="fusion").eval()
    output = model(oracle.batch([[0, 1]] * 3, (1,)))
    z = output.self_embeddings["visual"]
    assert torch.allclose(
        output.fused_logits, model.fusion(torch.stack([torch.zeros_like(z), z], dim=1))
    )


def test_one_modality_is_looked_at_without_the_others() -> None:
    mask, rows = mask_for(
        ("visual",), THREE, torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    )
    assert mask.int().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert rows.tolist() == [True, True, False]


@pytest.mark.parametrize("modalities", [("a",), THREE, ("x", "x2", "x-y")])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_parameter_groups_partition_every_name(modalities: tuple[str, ...], structure: str) -> None:
    model = oracle.model(modalities, structure=structure, fusion="gated")
    groups = parameter_groups(model.spec)
    assert list(groups) == [*modalities, "shared"]
    claims = {
        name: [g for g, prefixes in groups.items() if name.startswith(prefixes)]
        for name in model.state_dict()
    }
    assert all(len(claim) == 1 for claim in claims.values())
    assert {claim[0] for claim in claims.values()} == set(groups) - (
        {"shared"} if structure == "unimodal" else set()
    )
    assert all(claims[name] == ["shared"] for name in claims if name.startswith("fusion."))


def test_unknown_modality_is_refused() -> None:
    spec = oracle.model().spec
    with pytest.raises(ValueError, match=r"\['touch'\].*\['audio', 'visual'\]"):
        MultimodalModel(spec, oracle.inputs("audio", "touch"))
    with pytest.raises(ValueError, match="one or more"):
        MultimodalModel(spec, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fusion": "magic"}, "'magic'.*concat.*film.*gated.*sum"),
        ({"projector": "cubic"}, "'cubic'.*linear.*mlp"),
        ({"structure": "tower"}, "'tower'.*fusion.*one-projector.*two-projectors.*unimodal"),
        ({"normalization": "layer"}, "'layer'.*batch.*group"),
        ({"encoders": {"audio": "vgg", "visual": "small-cnn"}}, "'vgg'.*resnet18.*small-cnn"),
    ],
)
def test_unknown_parts_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        oracle.model(**changes)


def test_mlp_projector_has_three_linear_layers() -> None:
    kinds = [type(layer).__name__ for layer in build_projector("mlp", 4)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("name", "channels", "dim"), [("small-cnn", 2, 6), ("resnet18", 1, 5), ("resnet18", 3, 512)]
)
def test_encoders_map_any_channels_to_dim(name: str, channels: int, dim: int) -> None:
    encoder = build_encoder(
        name, ModalitySpec("m", "image", (channels, 32, 32), "float32"), dim
    ).eval()
    assert encoder(torch.zeros(2, channels, 32, 32)).shape == (2, dim)
    linear = [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == (0 if (name, dim) == ("resnet18", 512) else 1)


@pytest.mark.parametrize(
    ("kind", "shape"), [("tokens", (1, 8, 8)), ("image", (8, 8)), ("series", (6,))]
)
def test_encoder_that_cannot_read_a_modality_is_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"'ear' is {kind} of shape"):
        build_encoder("small-cnn", ModalitySpec("ear", kind, shape, "float32"), 4)


@pytest.mark.parametrize("rows", [[0, 0, 0], [1, 0, 0]])
def test_fewer_than_two_present_samples_train_on_the_running_statistics(rows: list[int]) -> None:
    """BatchNorm cannot take statistics of one sample: images of 8 x 8 end as 1 x 1.

    The running ones stay put.
    """
    inputs = [ModalitySpec(name, "image", (1, 8, 8), "float32") for name in ("audio", "visual")]
    torch.manual_seed(0)
    model = MultimodalModel(oracle.model().spec, inputs).train()
    before = {name: value.clone() for name, value in model.branch("audio").named_buffers()}
    batch = oracle.batch([[row, 1] for row in rows])
    small = {name: values.float()[..., :8, :8] for name, values in batch.inputs.items()}
    output = model(replace(batch, inputs=small))
    assert torch.isfinite(output.fused_logits).all()
    assert all(
        torch.equal(value, before[name]) for name, value in model.branch("audio").named_buffers()
    )
    assert all(module.training for module in model.modules())
    expected = model.eval().branch("audio").self_logits(small["audio"][:1]) * rows[0]
    assert torch.allclose(output.self_logits["audio"][:1], expected)


def test_one_projector_infiltrates_with_what_it_knows_itself() -> None:
    """Without Q_m, q_m is u_m.

    The same logits, the same embedding in the other slots, and no parameter more.
    """
    model, batch = oracle.model(structure="one-projector").eval(), oracle.batch([[1, 1]] * 3)
    output = model(batch)
    for name in ("audio", "visual"):
        assert torch.equal(output.infiltration_embeddings[name], output.self_embeddings[name])
        assert torch.equal(output.infiltration_logits[name], output.self_logits[name])
    u = output.self_embeddings["audio"]
    mask, _ = mask_for(("audio",), model.spec.modalities, batch.present)
    alone = model.fuse(output.self_embeddings, output.infiltration_embeddings, mask)
    assert torch.allclose(alone, model.fusion(torch.stack([u, u], dim=1)))
    both = {name for name in oracle.model().state_dict() if "infiltration_projector" not in name}
    assert set(model.state_dict()) == both


@pytest.mark.parametrize(
    "present", [[[1, 1, 1]] * 4, SOME_ABSENT, [[0, 0, 0], [1, 1, 1], [0, 1, 0]]]
)
def test_a_unimodal_model_adds_up_the_log_probabilities_of_what_is_present(
    present: list[list[int]],
) -> None:
    model, batch = oracle.model(THREE, structure="unimodal").eval(), oracle.batch(present, range(3))
    output = model(batch)
    expected = np.zeros((len(present), 3))
    for i in range(len(present)):
        for m, name in enumerate(THREE):
            if present[i][m]:
                logits = model.branch(name).classifier(
                    model.branch(name).encoder(batch.inputs[name][i : i + 1])
                )
                expected[i] += np.log(oracle.softmax(logits[0].detach().numpy()))
    assert output.fused_logits.detach().numpy() == pytest.approx(expected)
    assert not output.infiltration_embeddings


@pytest.mark.parametrize("encoder", ["small-cnn", "resnet18"])
def test_group_norm_has_neither_buffers_nor_memory_of_the_batch(encoder: str) -> None:
    """What a sample is mapped to depends on nothing else in its batch, in training as in
    evaluation.
    """
    modality = ModalitySpec("m", "image", (1, 32, 32), "float32")
    torch.manual_seed(0)
    grouped, batched = (build_encoder(encoder, modality, 4, kind) for kind in ("group", "batch"))
    assert not list(grouped.buffers())
    assert list(batched.buffers())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in grouped.modules())
    x = torch.randn(3, 1, 32, 32)
    whole, alone = grouped.train()(x), grouped(x[:1])
    assert torch.allclose(whole[:1], alone, atol=1e-5)
    assert torch.equal(grouped.eval()(x), whole)
    assert not torch.allclose(batched.train()(x)[:2], batched(x[:2]), atol=1e-3)


def test_group_norm_by_hand() -> None:
    """Eight groups of two of the first layer's 16 channels, each to mean 0 and variance 1 over its
    pixels.
    """
    encoder = oracle.model(normalization="group").branch("audio").encoder
    x = torch.randn(2, *oracle.SHAPE, generator=torch.Generator().manual_seed(0)).double()
    raw = encoder.trunk[0](x)
    found = encoder.trunk[1](raw).detach().numpy()
    for i in range(2):
        for group in range(8):
            part = raw[i, 2 * group : 2 * group + 2].detach().numpy()
            expected = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            assert found[i, 2 * group : 2 * group + 2] == pytest.approx(expected)
