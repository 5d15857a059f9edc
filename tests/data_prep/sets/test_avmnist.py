"""data_prep.sets.avmnist on a small raw archive made on the spot, and on the real one where
it is.
"""

import csv
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.execution import Execution
from data_prep.sets import avmnist
from fedcmi_flwr.data.schema import array_path, labels_path, read_spec, samples_path

REAL = Path(__file__).parents[3].parent / "shared/data/avmnist"


def _rows(directory: Path, split: str) -> list[dict[str, str]]:
    with samples_path(directory, split).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _image_rows(directory: Path, split: str) -> list[int]:
    return [int(row["source"].split("#")[1]) for row in _rows(directory, split)]


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_description_and_arrays(raw_avmnist: Path, tmp_path: Path) -> None:
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)
    spec = read_spec(out)
    assert (spec.name, spec.splits) == ("avmnist", {"train": 30, "test": 40})
    assert {
        "seed": 0,
        "audio_snr_db": -5.0,
        "train_size": 30,
        "max_bad": 0,
    }.items() <= spec.settings.items()
    for split, size in spec.splits.items():
        labels = np.load(labels_path(out, split), allow_pickle=False)
        assert Counter(labels.tolist()) == {digit: size // 10 for digit in range(10)}
        for modality in spec.modalities:
            array = np.load(array_path(out, split, modality.name), allow_pickle=False)
            assert array.shape == (size, *modality.shape)
            assert array.dtype == np.float16
    assert not (out / "excluded.csv").exists()


def test_split_follows_the_index_and_group_the_speaker(raw_avmnist: Path, tmp_path: Path) -> None:
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=60)
    for split, indices in (("train", {"10", "11", "12"}), ("test", {"0", "1"})):
        names = [row["id"].split("_") for row in _rows(out, split)]
        assert {index for _, _, index in names} == indices
        assert [row["group"] for row in _rows(out, split)] == [speaker for _, speaker, _ in names]
        assert [row["label"] for row in _rows(out, split)] == [digit for digit, _, _ in names]
    first = _rows(out, "test")[0]
    assert first["source"].startswith("recordings/0_ann_0.wav;t10k-images-idx3-ubyte.gz#")


def test_images_are_of_the_digit_and_used_once(raw_avmnist: Path, tmp_path: Path) -> None:
    """Image i shows digit i % 10."""
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=60)
    for split in ("train", "test"):
        labels = [int(row["label"]) for row in _rows(out, split)]
        assert [row % 10 for row in _image_rows(out, split)] == labels
    used = _image_rows(out, "train") + _image_rows(out, "test")
    assert len(set(used)) == len(used) == 100


def test_stored_image_is_the_source_in_pixel_units(raw_avmnist: Path, tmp_path: Path) -> None:
    """Without noise, the first pixel of image i is i / 255 and the rest is 0."""
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=60, image_noise=0.0)
    images = np.load(array_path(out, "test", "visual"))
    expected = (np.array(_image_rows(out, "test"), np.float32) / np.float32(255)).astype(np.float16)
    assert np.array_equal(images[:, 0, 0, 0], expected)
    assert images[:, 0, 1:].max() == 0


def test_loaded_noise_has_its_size(raw_avmnist: Path, tmp_path: Path) -> None:
    """(stored - 0.13) / 0.31 on blank pixels: mean -0.13 / 0.31 and sigma 2.5."""
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=60)
    visual = read_spec(out).modalities[1]
    blank = (
        np.load(array_path(out, "train", "visual")).astype(np.float64)[:, 0, 1:] - visual.mean
    ) / visual.std
    assert blank.mean() == pytest.approx(-0.13 / 0.31, abs=5 * 2.5 / math.sqrt(blank.size))
    assert blank.std() == pytest.approx(2.5, rel=5 / math.sqrt(2 * blank.size))


def test_splits_have_noise_of_their_own(raw_avmnist: Path, tmp_path: Path) -> None:
    """Blank pixels hold noise alone; independent noise correlates by 1 / sqrt(n) or so."""
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=40)
    train, test = (
        np.load(array_path(out, split, "visual"))[:, 0, 1:].ravel() for split in ("train", "test")
    )
    assert abs(np.corrcoef(train.astype(float), test.astype(float))[0, 1]) < 5 / math.sqrt(
        train.size
    )


def test_same_settings_give_the_same_bytes(raw_avmnist: Path, tmp_path: Path) -> None:
    first, again, other = (
        _files(avmnist.prepare(raw_avmnist, tmp_path / name, seed=seed, train_size=20))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert len(first) == 10
    assert first == again
    assert first["train/samples.csv"] != other["train/samples.csv"]
    assert first["test/audio.npy"] != other["test/audio.npy"]


def test_test_split_does_not_depend_on_train_size(raw_avmnist: Path, tmp_path: Path) -> None:
    small = _files(avmnist.prepare(raw_avmnist, tmp_path / "small", train_size=10))
    large = _files(avmnist.prepare(raw_avmnist, tmp_path / "large", train_size=60))
    names = [name for name in small if name.startswith("test/")]
    assert len(names) == 4
    assert all(small[name] == large[name] for name in names)
    assert small["train/audio.npy"] != large["train/audio.npy"]


@pytest.mark.parametrize("owned", ["audio", "visual"])
def test_subset_stores_one_modality_unchanged(
    raw_avmnist: Path, tmp_path: Path, owned: str
) -> None:
    whole = avmnist.prepare(raw_avmnist, tmp_path / "whole", train_size=30)
    part = avmnist.prepare(raw_avmnist, tmp_path / "part", train_size=30, modalities=[owned])
    assert read_spec(part).modality_names == (owned,)
    assert {path.stem for path in part.rglob("*.npy")} == {owned, "labels"}
    stored = array_path(Path(), "train", owned)
    assert (part / stored).read_bytes() == (whole / stored).read_bytes()
    assert {row["modalities"] for row in _rows(part, "test")} == {owned}


def test_finished_directory_needs_no_raw_data(raw_avmnist: Path, tmp_path: Path) -> None:
    out = avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)
    shutil.rmtree(raw_avmnist)
    assert avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30) == out
    with pytest.raises(PrepError, match="train_size = 30, asked for 31"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=31)


def _spoil(raw: Path) -> None:
    """Make three of the train recordings unusable, each in another way."""
    (raw / "recordings" / "3_ann_10.wav").write_text(
        "not audio, but text that goes on for a while\n" * 5
    )
    (raw / "recordings" / "4_bob_11.wav").write_bytes(b"")
    (raw / "recordings" / "seven_ann_12.wav").write_bytes(
        (raw / "recordings" / "7_ann_12.wav").read_bytes()
    )


def test_unreadable_recordings_are_an_error(raw_avmnist: Path, tmp_path: Path) -> None:
    _spoil(raw_avmnist)
    with pytest.raises(PrepError) as caught:
        avmnist.prepare(
            raw_avmnist, tmp_path / "out", train_size=30, execution=Execution(max_bad=2)
        )
    message = str(caught.value)
    assert message.startswith("3 source files cannot be used, max_bad = 2 allowed")
    for name in (
        "3_ann_10.wav: not decodable",
        "4_bob_11.wav: an empty file",
        "seven_ann_12.wav: its name",
    ):
        assert name in message
    assert not (tmp_path / "out").exists()


def test_allowed_unreadable_recordings_are_listed(raw_avmnist: Path, tmp_path: Path) -> None:
    _spoil(raw_avmnist)
    out = avmnist.prepare(
        raw_avmnist, tmp_path / "out", train_size=58, execution=Execution(max_bad=3)
    )
    with (out / "excluded.csv").open(encoding="utf-8", newline="") as file:
        names = [row["source"] for row in csv.DictReader(file)]
    assert names == ["3_ann_10.wav", "4_bob_11.wav", "seven_ann_12.wav"]
    ids = {row["id"] for row in _rows(out, "train")}
    assert len(ids) == 58
    assert not ids & {"3_ann_10", "4_bob_11", "seven_ann_12"}


def test_silent_recording_is_unusable(
    raw_avmnist: Path, tmp_path: Path, write_wav: Callable
) -> None:
    write_wav(raw_avmnist / "recordings" / "5_ann_0.wav", gain=0.0)
    with pytest.raises(PrepError, match=r"5_ann_0\.wav: silent"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)


def test_other_rate_is_refused(raw_avmnist: Path, tmp_path: Path, write_wav: Callable) -> None:
    write_wav(raw_avmnist / "recordings" / "5_ann_0.wav", rate=16000)
    with pytest.raises(PrepError, match=r"5_ann_0\.wav: 16000 Hz, expected 8000 Hz"):
        avmnist.prepare(
            raw_avmnist, tmp_path / "out", train_size=30, execution=Execution(max_bad=100)
        )


def test_hidden_and_other_files_are_none_of_the_data(raw_avmnist: Path, tmp_path: Path) -> None:
    (raw_avmnist / "recordings" / "._0_ann_0.wav").write_bytes(
        b"what some systems leave in archives"
    )
    (raw_avmnist / "recordings" / "README.md").write_text("read me")
    assert (
        read_spec(avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)).splits["test"]
        == 40
    )


@pytest.mark.parametrize(
    "part", ["recordings", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
)
def test_missing_part_is_named(raw_avmnist: Path, tmp_path: Path, part: str) -> None:
    (raw_avmnist / part).rename(raw_avmnist / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{part}: not found"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)
    assert not (tmp_path / "out").exists()


def test_missing_raw_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        avmnist.prepare(tmp_path / "nowhere", tmp_path / "out")


def test_empty_folder_is_refused(raw_avmnist: Path, tmp_path: Path) -> None:
    shutil.rmtree(raw_avmnist / "recordings")
    (raw_avmnist / "recordings").mkdir()
    with pytest.raises(PrepError, match=r"recordings: holds no \.wav files"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)


def test_truncated_images_are_refused(raw_avmnist: Path, tmp_path: Path) -> None:
    path = raw_avmnist / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PrepError, match=r"t10k-images-idx3-ubyte\.gz: not a whole gzip file"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)


def test_images_without_labels_are_refused(
    raw_avmnist: Path, tmp_path: Path, write_idx: Callable
) -> None:
    write_idx(raw_avmnist / "t10k-labels-idx1-ubyte.gz", np.zeros(119))
    with pytest.raises(PrepError, match=r"120 images in .* but 119 labels"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)


def test_images_of_another_size_are_refused(
    raw_avmnist: Path, tmp_path: Path, write_idx: Callable
) -> None:
    write_idx(raw_avmnist / "t10k-images-idx3-ubyte.gz", np.zeros((120, 8, 9)))
    with pytest.raises(PrepError, match="images of 8 x 9, expected 28 x 28"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=30)


def test_too_few_images_of_a_digit_are_refused(
    raw_avmnist: Path, tmp_path: Path, write_idx: Callable
) -> None:
    """4 test and 6 train recordings of each digit, but 9 images of a 6."""
    labels = np.arange(120) % 10
    labels[[6, 16, 26]] = 0
    write_idx(raw_avmnist / "t10k-labels-idx1-ubyte.gz", labels)
    with pytest.raises(PrepError, match="class 6: 10 samples need a partner each, found 9"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=60)


def test_too_few_recordings_are_refused(raw_avmnist: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"40 usable recordings .* 60 others .* at least 1 and 61"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", train_size=61)


@pytest.mark.parametrize("settings", [{"train_size": 0}, {"seed": -1}, {"modalities": []}])
def test_settings_out_of_range_are_refused(
    raw_avmnist: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    with pytest.raises(PrepError, match=r"must be|at least"):
        avmnist.prepare(raw_avmnist, tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real AV-MNIST archive is not beside this checkout"
)
def test_real_archive(tmp_path: Path) -> None:
    """Expect 600 test clips of 6 speakers.

    Noise of sigma 2.5 on the corners, which MNIST leaves blank.
    """
    out = avmnist.prepare(REAL, tmp_path / "out")
    spec = read_spec(out)
    assert spec.splits == {"train": 1000, "test": 600}
    assert spec.modalities[0].shape == (1, 32, 33)
    used = _image_rows(out, "train") + _image_rows(out, "test")
    assert len(set(used)) == 1600
    assert Counter(row["group"] for row in _rows(out, "test")) == dict.fromkeys(
        ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"), 100
    )
    labels = np.load(labels_path(out, "train"))
    assert np.bincount(labels).tolist() == [100] * 10
    visual = np.load(array_path(out, "test", "visual")).astype(np.float64)
    corner = (visual[:, 0, :2, :2] - spec.modalities[1].mean) / spec.modalities[1].std
    assert corner.std() == pytest.approx(2.5, rel=5 / math.sqrt(2 * corner.size))
    audio = spec.modalities[0]
    test_audio = (
        np.load(array_path(out, "test", "audio")).astype(np.float64) - audio.mean
    ) / audio.std
    assert abs(test_audio.mean()) < 0.1
    assert test_audio.std() == pytest.approx(1, abs=0.1)
