"""data_prep.sets.av_digits: the embedded data set, prepared once and looked at from all sides."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data_prep.errors import PrepError
from data_prep.sets import av_digits
from fedcmi_flwr.data.schema import array_path, labels_path, read_spec, samples_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the data set with its default settings."""
    return av_digits.prepare(tmp_path_factory.mktemp("av") / "av-digits")


def _rows(directory: Path, split: str) -> list[dict[str, str]]:
    with samples_path(directory, split).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_description(prepared: Path) -> None:
    spec = read_spec(prepared)
    assert spec.name == "av-digits"
    assert spec.classes == tuple("0123456789")
    assert spec.splits == {"train": 1200, "test": 500}
    assert [(m.name, m.kind, m.shape, m.dtype) for m in spec.modalities] == [
        ("audio", "spectrogram", (1, 32, 33), "float16"),
        ("visual", "image", (1, 28, 28), "float16"),
    ]
    assert {"seed": 0, "audio_snr_db": -15.0, "image_noise": 2.5}.items() <= spec.settings.items()
    assert set(spec.tools) == {"numpy", "torch", "torchaudio", "scikit-learn"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_arrays_keep_the_description(prepared: Path, split: str) -> None:
    spec = read_spec(prepared)
    for modality in spec.modalities:
        array = np.load(array_path(prepared, split, modality.name), allow_pickle=False)
        assert array.shape == (spec.splits[split], *modality.shape)
        assert array.dtype == modality.dtype
    labels = np.load(labels_path(prepared, split), allow_pickle=False)
    assert set(Counter(labels.tolist()).values()) == {spec.splits[split] // 10}
    rows = _rows(prepared, split)
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert {row["modalities"] for row in rows} == {"audio+visual"}
    assert {row["group"] for row in rows} == {f"line-{line:02d}" for line in range(12)}


def test_no_digit_is_used_twice(prepared: Path) -> None:
    sources = [
        row["source"].split(";")[1] for split in ("train", "test") for row in _rows(prepared, split)
    ]
    assert len(sources) == len(set(sources)) == 1700


def test_labels_are_those_of_the_source_images(prepared: Path) -> None:
    target = load_digits().target
    for row in _rows(prepared, "test"):
        assert int(row["label"]) == target[int(row["source"].split("#")[1])]


def test_audio_is_standardised_over_the_train_split(prepared: Path) -> None:
    audio = read_spec(prepared).modalities[0]
    stored = np.load(array_path(prepared, "train", "audio")).astype(np.float64)
    standardised = (stored - audio.mean) / audio.std
    assert standardised.mean() == pytest.approx(0, abs=1e-6)
    assert standardised.std() == pytest.approx(1, abs=1e-6)


def test_images_are_the_source_plus_noise(prepared: Path) -> None:
    """Standardised noise has sigma 2.5.

    Its standard deviation scatters by 1 / sqrt(2 n) of itself.
    """
    visual = read_spec(prepared).modalities[1]
    stored = np.load(array_path(prepared, "test", "visual")).astype(np.float64)[:, 0]
    originals = np.array([int(row["source"].split("#")[1]) for row in _rows(prepared, "test")])
    pixels = load_digits().images[originals] / 16
    corner = (stored[:, 0, 0] - pixels[:, 0, 0]) / visual.std  # bilinear scaling keeps the corners
    assert corner.std() == pytest.approx(2.5, rel=5 / math.sqrt(2 * len(corner)))
    mean_image = stored.mean(axis=0)[:27, :27].reshape(9, 3, 9, 3).mean(axis=(1, 3))
    assert np.corrcoef(mean_image[:8, :8].ravel(), pixels.mean(axis=0).ravel())[0, 1] > 0.7


def test_same_seed_gives_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    again = _files(av_digits.prepare(tmp_path / "again"))
    assert len(again) == 10
    assert again == _files(prepared)


def test_another_seed_gives_other_samples(prepared: Path, tmp_path: Path) -> None:
    other = av_digits.prepare(tmp_path / "other", seed=1)
    assert _rows(other, "test") != _rows(prepared, "test")
    for name in ("audio", "visual"):
        path = array_path(Path(), "test", name)
        assert not np.array_equal(np.load(other / path), np.load(prepared / path))


def test_levels_change_the_noise_alone(prepared: Path, tmp_path: Path) -> None:
    """Clean images are within 0 to 1, and no sample moves."""
    clean = av_digits.prepare(tmp_path / "clean", audio_snr_db=60.0, image_noise=0.0)
    images = np.load(array_path(clean, "train", "visual"))
    assert (images.min(), images.max()) == (0, 1)
    assert _rows(clean, "train") == _rows(prepared, "train")


@pytest.mark.parametrize("owned", ["audio", "visual"])
def test_subset_stores_one_modality_unchanged(prepared: Path, tmp_path: Path, owned: str) -> None:
    part = av_digits.prepare(tmp_path / "part", modalities=[owned])
    assert read_spec(part).modality_names == (owned,)
    whole = {m.name: m for m in read_spec(prepared).modalities}
    assert read_spec(part).modalities[0] == whole[owned]
    assert {row["modalities"] for row in _rows(part, "train")} == {owned}
    assert [row["id"] for row in _rows(part, "train")] == [
        row["id"] for row in _rows(prepared, "train")
    ]
    arrays = {path.stem for path in part.rglob("*.npy")}
    assert arrays == {owned, "labels"}
    stored = array_path(Path(), "test", owned)
    assert (part / stored).read_bytes() == (prepared / stored).read_bytes()


def test_other_settings_are_refused_and_the_same_ones_return_at_once(prepared: Path) -> None:
    assert av_digits.prepare(prepared, seed=0) == prepared
    with pytest.raises(PrepError, match=r"image_noise = 2\.5, asked for 1\.0"):
        av_digits.prepare(prepared, image_noise=1.0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"audio_snr_db": math.inf}, "audio_snr_db = inf"),
        ({"image_noise": -1.0}, r"image_noise = -1\.0"),
        ({"image_noise": math.nan}, "image_noise = nan"),
        ({"modalities": ["smell"]}, "must be one or more of audio, visual"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(PrepError, match=problem):
        av_digits.prepare(tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
