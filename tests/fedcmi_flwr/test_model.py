"""The model: slots by hand, every fusion and projector, and absent samples that touch nothing."""

from dataclasses import replace

import oracle
import pytest
import torch

from fedcmi_flwr.encoders import build_encoder
from fedcmi_flwr.model import FUSIONS, MultimodalModel, build_projector, fill_slots, parameter_groups
from fedcmi_flwr.schema import ModalitySpec
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
    assert fill_slots(u, q, present).numpy() == pytest.approx(oracle.fill(u.numpy(), q.numpy(), present.numpy()))


@pytest.mark.parametrize("modalities", [THREE[:2], THREE])
@pytest.mark.parametrize("two_projectors", [True, False])
@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_kind_gives_logits(
    fusion: str, projector: str, two_projectors: bool, modalities: tuple[str, ...]
) -> None:
    model = oracle.model(modalities, fusion=fusion, projector=projector, two_projectors=two_projectors)
    columns = range(len(modalities))
    output = model(oracle.batch([row[: len(modalities)] for row in ALL_PRESENT], columns))
    assert output.fused_logits.shape == (4, 3)
    assert set(output.self_embeddings) == set(modalities)
    for values, size in (
        (output.infiltration_embeddings, 4),
        (output.self_logits, 3),
        (output.infiltration_logits, 3),
    ):
        assert {name: tuple(value.shape) for name, value in values.items()} == (
            dict.fromkeys(modalities, (4, size)) if two_projectors else {}
        )
    output.fused_logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.fusion.parameters())


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
    assert torch.allclose(gated(slots), (parts[0] + parts[1]) @ gated.output.weight.T + gated.output.bias)


def test_the_outputs_are_what_the_words_say() -> None:
    model, batch = oracle.model().eval(), oracle.batch([[1, 1]] * 3)
    output = model(batch)
    branch, x = model.branch("audio"), batch.inputs["audio"]
    z = branch.encoder(x)
    assert torch.allclose(output.self_embeddings["audio"], branch.self_projector(z))
    assert torch.allclose(output.infiltration_embeddings["audio"], branch.infiltration_projector(z))
    assert torch.allclose(output.self_logits["audio"], branch.classifier(branch.self_projector(z)))
    assert torch.allclose(output.infiltration_logits["audio"], branch.classifier(branch.infiltration_projector(z)))
    assert torch.equal(branch.self_logits(x), output.self_logits["audio"])
    plain = oracle.model(two_projectors=False).eval()
    assert torch.equal(plain(batch).self_embeddings["audio"], plain.branch("audio").encoder(x))


def _rows(output: ModelOutput, rows: torch.Tensor) -> list[torch.Tensor]:
    parts = (output.self_embeddings, output.infiltration_embeddings, output.self_logits, output.infiltration_logits)
    return [part["audio"][rows] for part in parts]


@pytest.mark.parametrize("training", [True, False])
def test_absent_samples_touch_nothing(training: bool) -> None:
    """The audio branch sees the present rows alone: same outputs, same running statistics, zeros elsewhere."""
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
    """Audio alone of three: its u in the first slot, its q in both others; the weights are the whole model's."""
    whole, mine = oracle.model(THREE), oracle.model(THREE, owned=("audio",))
    mine.load_state_dict({name: value for name, value in whole.state_dict().items() if name in mine.state_dict()})
    assert mine.owned == ("audio",)
    assert {name.split(".")[1] for name in mine.state_dict() if name.startswith("branches.")} == {"audio"}
    batch = oracle.batch([[1, 0, 0]] * 4, (0,))
    output = mine.eval()(batch)
    u, q = output.self_embeddings["audio"], output.infiltration_embeddings["audio"]
    assert torch.allclose(output.fused_logits, whole.fusion(torch.stack([u, q, q], dim=1)))


def test_plain_model_fills_with_zeros() -> None:
    model = oracle.model(owned=("visual",), two_projectors=False).eval()
    output = model(oracle.batch([[0, 1]] * 3, (1,)))
    z = output.self_embeddings["visual"]
    assert torch.allclose(output.fused_logits, model.fusion(torch.stack([torch.zeros_like(z), z], dim=1)))


def test_only_hides_every_other_modality() -> None:
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    found = oracle.model(THREE).only("visual", present)
    assert found.int().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("modalities", [("a",), THREE, ("x", "x2", "x-y")])
@pytest.mark.parametrize("two_projectors", [True, False])
def test_parameter_groups_partition_every_name(modalities: tuple[str, ...], two_projectors: bool) -> None:
    model = oracle.model(modalities, two_projectors=two_projectors, fusion="gated")
    groups = parameter_groups(model.spec)
    assert list(groups) == [*modalities, "shared"]
    claims = {name: [g for g, prefixes in groups.items() if name.startswith(prefixes)] for name in model.state_dict()}
    assert all(len(claim) == 1 for claim in claims.values())
    assert {claim[0] for claim in claims.values()} == set(groups)
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
        ({"encoders": {"audio": "vgg", "visual": "small-cnn"}}, "'vgg'.*'audio'.*resnet18.*small-cnn"),
    ],
)
def test_unknown_parts_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        oracle.model(**changes)


def test_mlp_projector_has_three_linear_layers() -> None:
    kinds = [type(layer).__name__ for layer in build_projector("mlp", 4)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(("name", "channels", "dim"), [("small-cnn", 2, 6), ("resnet18", 1, 5), ("resnet18", 3, 512)])
def test_encoders_map_any_channels_to_dim(name: str, channels: int, dim: int) -> None:
    encoder = build_encoder(name, ModalitySpec("m", "image", (channels, 32, 32), "float32"), dim).eval()
    assert encoder(torch.zeros(2, channels, 32, 32)).shape == (2, dim)
    linear = [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == (0 if (name, dim) == ("resnet18", 512) else 1)


@pytest.mark.parametrize(("kind", "shape"), [("tokens", (1, 8, 8)), ("image", (8, 8)), ("series", (6,))])
def test_encoder_that_cannot_read_a_modality_is_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"'ear' is {kind} of shape"):
        build_encoder("small-cnn", ModalitySpec("ear", kind, shape, "float32"), 4)


@pytest.mark.parametrize("rows", [[0, 0, 0], [1, 0, 0]])
def test_fewer_than_two_present_samples_train_on_the_running_statistics(rows: list[int]) -> None:
    """BatchNorm cannot take statistics of one sample: images of 8 x 8 end as 1 x 1. The running ones stay put."""
    inputs = [ModalitySpec(name, "image", (1, 8, 8), "float32") for name in ("audio", "visual")]
    torch.manual_seed(0)
    model = MultimodalModel(oracle.model().spec, inputs).train()
    before = {name: value.clone() for name, value in model.branch("audio").named_buffers()}
    batch = oracle.batch([[row, 1] for row in rows])
    small = {name: values.float()[..., :8, :8] for name, values in batch.inputs.items()}
    output = model(replace(batch, inputs=small))
    assert torch.isfinite(output.fused_logits).all()
    assert all(torch.equal(value, before[name]) for name, value in model.branch("audio").named_buffers())
    assert all(module.training for module in model.modules())
    expected = model.eval().branch("audio").self_logits(small["audio"][:1]) * rows[0]
    assert torch.allclose(output.self_logits["audio"][:1], expected)
