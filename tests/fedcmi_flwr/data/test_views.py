"""Views: crops against torchvision one sample at a time, what is drawn and from which seed, and
normalisation.
"""

from dataclasses import replace
from pathlib import Path

import kinds
import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from client_app.train import Received, train
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import TrainingConfig, ViewConfig
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import (
    AS_STORED,
    Views,
    check_views,
    cut_out,
    normalise,
    random_boxes,
    views_from,
)
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel

BOXES = [
    (0, 0, 40, 56),
    (3, 5, 10, 9),
    (31, 0, 9, 56),
    (7, 11, 1, 1),
    (12, 2, 28, 30),
    (0, 20, 40, 3),
]
FEDERATION = ("audio", "visual")


def _images(*shape: int) -> torch.Tensor:
    return 255 * torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (23, 37)])
@pytest.mark.parametrize("frames", [(), (2,)])
def test_a_batch_of_crops_is_torchvisions_crop_of_each_sample(
    size: tuple[int, int], frames: tuple[int, ...]
) -> None:
    """Larger and smaller than the crop, so with and without antialiasing.

    Every second one mirrored.
    """
    images = _images(len(BOXES), *frames, 3, 40, 56)
    mirrored = torch.arange(len(BOXES)) % 2 == 1
    found = cut_out(images, torch.tensor(BOXES), mirrored, size)
    assert found.shape == (len(BOXES), *frames, 3, *size)
    for image, box, mirror, view in zip(images, BOXES, mirrored, found, strict=True):
        expected = reference.resized_crop(image, *box, list(size), antialias=True)
        assert torch.allclose(view, expected.flip(-1) if mirror else expected, atol=2e-3)


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """Means and standard deviations of top, left, height and width over 4,000 draws each."""
    height, width = 40, 56
    found = random_boxes(4000, height, width, torch.Generator().manual_seed(0)).double()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        image = torch.empty(3, height, width)
        draws = [
            RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)
        ]
    expected = torch.tensor(draws).double()
    assert torch.allclose(found.mean(0), expected.mean(0), atol=0.8)
    assert torch.allclose(found.std(0), expected.std(0), atol=0.6)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()
    assert (found[:, 2:] >= 1).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(1, 100, [0, 49, 1, 1]), (100, 1, [49, 0, 1, 1]), (2, 200, [0, 98, 2, 3])],
)
def test_where_no_crop_fits_the_largest_central_one_is_taken(
    height: int, width: int, box: list[int]
) -> None:
    """A crop of 8 % of a strip is higher than the strip in every ratio.

    The last: 2 x 4/3 = 3 wide, (200 - 3) // 2.
    """
    assert random_boxes(3, height, width, torch.Generator().manual_seed(0)).tolist() == [box] * 3


def test_samples_have_their_own_crop_and_the_frames_of_one_sample_share_it() -> None:
    still = _images(1, 1, 3, 40, 40).expand(4, 6, 3, 40, 40)
    views = Views(("visual",), size=24)
    seen = views.show(
        still, replace(kinds.FRAMES, mean=0.0, std=1.0), torch.Generator().manual_seed(0)
    )
    assert seen.shape == (4, 6, 3, 24, 24)
    assert all(torch.equal(seen[:, 0], seen[:, moment]) for moment in range(6))
    assert len({tuple(sample.flatten().tolist()) for sample in seen[:, 0]}) == 4


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_what_is_not_augmented_is_scaled_the_same_way_every_time(
    generator: torch.Generator | None,
) -> None:
    plain = replace(kinds.FRAMES, mean=0.0, std=1.0)
    images = _images(2, 6, 3, 40, 40)
    seen = Views(("other",), size=24).show(images, plain, generator)
    assert torch.allclose(
        seen, torch.stack([reference.resize(x, [24, 24]) for x in images]), atol=1e-3
    )
    assert torch.equal(Views(size=40).show(images, plain, generator), images)
    assert torch.equal(AS_STORED.show(images, plain, generator), images)


def test_an_augmented_modality_is_seen_whole_in_evaluation() -> None:
    plain = replace(kinds.IMAGE, mean=0.0, std=1.0)
    images = _images(2, 3, 36, 40)
    assert torch.equal(Views(("image",)).show(images, plain, None), images)
    seen = Views(("image",)).show(images, plain, torch.Generator().manual_seed(0))
    assert seen.shape == images.shape
    assert not torch.equal(seen, images)


def test_moments_by_hand() -> None:
    """Ten frames in four parts.

    0-1, 2-4, 5-6, 7-9, whose middles (the first of two) are 0, 3, 5, 8.
    """
    clip = ModalitySpec("visual", "frames", (10, 3, 8, 8), "uint8")
    assert Views(frames=4).frame_indices(clip, 2, None).tolist() == [[0, 3, 5, 8]] * 2
    assert Views(frames=10).frame_indices(clip, 1, None).tolist() == [list(range(10))]
    assert Views(frames=1).frame_indices(clip, 1, None).tolist() == [[4]]
    assert AS_STORED.frame_indices(clip, 1, None) is None
    assert Views(frames=4).frame_indices(kinds.IMAGE, 1, None) is None
    drawn = Views(frames=4).frame_indices(clip, 500, torch.Generator().manual_seed(0))
    assert [sorted(set(part.tolist())) for part in drawn.T] == [
        [0, 1],
        [2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ]
    share = [float((part == low).mean()) for part, low in zip(drawn.T, (0, 2, 5, 7), strict=True)]
    assert share == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 3], abs=0.07)


def test_normalisation_by_channel_by_hand() -> None:
    image = ModalitySpec("m", "image", (2, 1, 2), "uint8", (10.0, 20.0), (2.0, 4.0))
    stored = torch.tensor([[[[10, 12]], [[20, 28]]]], dtype=torch.uint8)
    assert normalise(stored, image).tolist() == [[[[0, 1]], [[0, 2]]]]
    frames = replace(image, kind="frames", shape=(3, 2, 1, 2))
    assert normalise(stored.unsqueeze(1).expand(1, 3, 2, 1, 2), frames).tolist() == [
        [[[[0, 1]], [[0, 2]]]] * 3
    ]
    series = replace(image, kind="series", shape=(2, 2))
    assert normalise(stored.squeeze(2), series).tolist() == [[[0, 1], [0, 2]]]
    vector = replace(image, kind="vector", shape=(2,), dtype="float32")
    assert normalise(torch.tensor([[12.0, 24.0], [10.0, 12.0]]), vector).tolist() == [
        [1, 1],
        [0, -2],
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return spectrograms, frames and tokens; samples 1, 2 and 3 each lack one of them."""
    return kinds.prepare(
        tmp_path_factory.mktemp("views") / "toy",
        kinds.SPECTROGRAM,
        kinds.FRAMES,
        kinds.TOKENS,
        absent={1: "audio", 2: "visual", 3: "text"},
    )


def test_batches_hold_integer_tokens_floats_and_blanks(prepared: Path) -> None:
    samples = load_split(prepared, "train")
    batch = samples.batch(np.arange(5), ("audio", "visual", "text"))
    assert {name: value.dtype for name, value in batch.inputs.items()} == {
        "audio": torch.float32,
        "visual": torch.float32,
        "text": torch.int64,
    }
    for row, name in ((1, "audio"), (2, "visual"), (3, "text")):
        assert not batch.inputs[name][row].any()
    assert batch.inputs["text"][0].tolist() == samples.arrays["text"][0].tolist()
    stored = samples.arrays["visual"][0].astype(np.float64)
    mean, std = (
        np.reshape(value, (1, 3, 1, 1)) for value in (kinds.IMAGENET_MEAN, kinds.IMAGENET_STD)
    )
    assert batch.inputs["visual"][0].numpy() == pytest.approx((stored - mean) / std, abs=1e-5)
    assert batch.inputs["visual"].shape == (5, 6, 3, 40, 40)


def test_views_read_only_their_frames_in_stored_dtype(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = replace(load_split(prepared, "train"), views=Views(frames=3))
    came: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    show = Views.show

    def note(
        self: Views, stored: torch.Tensor, modality: ModalitySpec, generator: torch.Generator | None
    ) -> torch.Tensor:
        came[modality.name] = (stored.dtype, tuple(stored.shape))
        return show(self, stored, modality, generator)

    monkeypatch.setattr(Views, "show", note)
    batch = samples.batch(np.array([0, 4]), ("audio", "visual", "text"))
    assert came == {
        "audio": (torch.float16, (2, 1, 33, 40)),
        "visual": (torch.uint8, (2, 3, 3, 40, 40)),
        "text": (torch.int32, (2, 8)),
    }
    whole = replace(samples, views=AS_STORED).batch(np.array([0, 4]), ("audio", "visual", "text"))
    assert torch.equal(batch.inputs["visual"], whole.inputs["visual"][:, [0, 2, 4]])


def _epochs(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, **changes: int
) -> list[torch.Tensor]:
    """Return the frames that two epochs of a training run see, sorted by sample."""
    seen: list[list[tuple[float, torch.Tensor]]] = []
    original = Samples.training_batches

    def spy(self: Samples, *args: object) -> object:
        seen.append([])
        for batch in original(self, *args):
            for sound, frames in zip(batch.inputs["audio"], batch.inputs["visual"], strict=True):
                seen[-1].append((float(sound.sum()), frames))
            yield batch

    monkeypatch.setattr(Samples, "training_batches", spy)
    spec = ModelSpec(
        FEDERATION, 2, 4, dict.fromkeys(FEDERATION, "small-cnn"), "linear", "concat", "fusion"
    )
    torch.manual_seed(0)
    model = MultimodalModel(spec, samples.modalities)
    settings = TrainingConfig(changes.get("seed", 0), 4, 2, 8, 0.01, 0.0, -1, 0.9, 0.0)
    where = (changes.get("server_round", 1), changes.get("partition", 0))
    train(model, samples, METHODS["fedavg"], settings, *where, Received())
    monkeypatch.undo()
    return [
        torch.stack([frames for _, frames in sorted(epoch, key=lambda pair: pair[0])])
        for epoch in seen
    ]


def test_views_follow_seed_round_partition_and_epoch(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_split(prepared, "train", FEDERATION).select(np.arange(4, 20))
    samples = replace(samples, views=Views(("visual",), size=24, frames=2))
    first, second = _epochs(samples, monkeypatch)
    assert first.shape == (16, 2, 3, 24, 24)
    assert not torch.equal(first, second)
    again = _epochs(samples, monkeypatch)
    assert torch.equal(torch.stack(again), torch.stack([first, second]))
    for change in ({"seed": 1}, {"server_round": 2}, {"partition": 1}):
        assert not torch.equal(_epochs(samples, monkeypatch, **change)[0], first)


def test_evaluation_and_statistics_see_evaluation_views(prepared: Path) -> None:
    """Reading the samples twice in stored order gives the same bits, whatever is augmented."""
    samples = replace(
        load_split(prepared, "train", FEDERATION), views=Views(("visual",), size=24, frames=2)
    )
    twice = [
        torch.cat([b.inputs["visual"] for b in samples.evaluation_batches(FEDERATION)])
        for _ in "ab"
    ]
    assert torch.equal(*twice)
    assert twice[0].shape == (24, 2, 3, 24, 24)


def test_batches_without_gradient_are_smaller_for_large_samples() -> None:
    """2^23 values: 8 of 1,048,576, 18 of the views of 3 frames of 3 x 224 x 224.

    Small samples stay at 256.
    """
    clip = ModalitySpec("visual", "frames", (16, 1, 256, 256), "uint8")
    faces = ModalitySpec("visual", "frames", (10, 3, 256, 256), "uint8")
    assert AS_STORED.evaluation_batch([kinds.TOKENS, clip]) == 8
    assert Views(size=224, frames=3).evaluation_batch([faces]) == 18
    assert AS_STORED.evaluation_batch([kinds.SPECTROGRAM, kinds.TOKENS]) == 256
    assert AS_STORED.evaluation_batch([replace(clip, shape=(200, 3, 256, 256))]) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ViewConfig("audio", 0, 0), r"augment: 'audio' is not one of .*\['visual'\]"),
        (ViewConfig("visual+", 0, 0), "augment: ''"),
        (ViewConfig("visual", 0, 7), "view-frames = 7: 'visual' has 6 stored frames"),
    ],
)
def test_views_that_the_data_cannot_give_are_refused(config: ViewConfig, words: str) -> None:
    check_views(views_from(ViewConfig("visual", 24, 6)), [kinds.SPECTROGRAM, kinds.FRAMES])
    with pytest.raises(ConfigError, match=words):
        check_views(views_from(config), [kinds.SPECTROGRAM, kinds.FRAMES])
