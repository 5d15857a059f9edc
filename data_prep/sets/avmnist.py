"""AV-MNIST: spoken digits heard, handwritten digits seen, paired by digit.

Raw archive: ``recordings/<digit>_<speaker>_<index>.wav`` (the Free Spoken Digit Dataset, 8 kHz) beside
``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz`` (MNIST's test half). The test split is the
recordings with index below 10 (method.md, "What to expect"); the train split is drawn from the others,
equally many of each digit as far as they reach. Every image is used at most once. Group: the speaker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.audio import fit_clip, read_wav
from data_prep.media.grey import read_idx_images, read_idx_labels
from data_prep.pipeline.writer import (
    Exclusion,
    check_unreadable,
    select_modalities,
    tool_versions,
    write_excluded,
    write_prepared,
)
from data_prep.sets.digits import (
    CLIP_SAMPLES,
    IMAGE_SIZE,
    MODALITIES,
    RATE_HZ,
    STORED,
    CleanDigits,
    Levels,
    store_digits,
)
from data_prep.sets.splitting import balanced_order, pair_by_label
from fedcmi_flwr.data.schema import DatasetSpec
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality

NAME = "avmnist"
RECORDINGS = "recordings"
IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"
TEST_INDICES = 10
"""Recordings with an index below this are the test split."""

_FILE_NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>.+)_(?P<index>[0-9]+)\.wav")


@dataclass(frozen=True)
class _Recording:
    """One readable recording; sorted by file name."""

    name: str
    digit: int
    speaker: str
    index: int
    waveform: Float[Tensor, " samples"]


def prepare(
    raw: Path,
    out: Path,
    *,
    seed: int = 0,
    audio_snr_db: float = -5.0,
    image_noise: float = 2.5,
    train_size: int = 1000,
    max_bad: int = 0,
    modalities: Sequence[Modality] | None = None,
) -> Path:
    """Prepare AV-MNIST; the same settings and raw data give the same bytes.

    The test split and its noise are the same for every ``train_size``.

    Parameters
    ----------
    raw
        The directory that holds ``recordings`` and the two MNIST files.
    out
        The prepared directory to make.
    seed
        Seed of the train split, the pairing and the noise, 0 or greater.
    audio_snr_db
        Signal-to-noise ratio of the white noise in dB, relative to the mean power over the whole clip.
    image_noise
        Standard deviation of the pixel noise in standardised units, 0 or greater.
    train_size
        Number of train samples, 1 or greater.
    max_bad
        How many recordings may be unusable; they are left out and listed in ``excluded.csv``.
    modalities
        What to store of "audio", "visual" and "contour"; None is the first two. The raw archive must be complete all
        the same.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        A part of the raw archive is missing.
    PrepError
        A setting out of range, raw data that cannot be used, or something else at ``out``.
    """
    levels = Levels(
        seed, audio_snr_db, image_noise, select_modalities(MODALITIES, STORED if modalities is None else modalities)
    )
    if train_size < 1 or max_bad < 0:
        raise PrepError(f"train_size = {train_size}, max_bad = {max_bad}: must be at least 1 and at least 0.")
    settings = {**levels.settings(), "train_size": train_size, "max_bad": max_bad}

    def build(directory: Path) -> DatasetSpec:
        tools = tool_versions("numpy", "torch", "torchaudio", "soundfile")
        images, labels = _read_mnist(raw)
        recordings, bad = _read_recordings(raw / RECORDINGS)
        excluded = [Exclusion(error.path.stem, "", error.path.name, error.reason) for error in bad]
        check_unreadable(excluded, max_bad)
        write_excluded(directory, excluded)
        splits = _pair(_split(recordings, train_size, seed), images, labels, seed)
        return store_digits(directory, NAME, splits, levels, settings, tools)

    return write_prepared(out, NAME, settings, build)


def _read_mnist(raw: Path) -> tuple[UInt8[Tensor, "images height width"], NDArray[np.int64]]:
    images, labels = read_idx_images(raw / IMAGES), read_idx_labels(raw / LABELS).numpy()
    if len(images) != len(labels):
        raise PrepError(
            f"{raw}: {len(images)} images in {IMAGES} but {len(labels)} labels in {LABELS}; fetch both again."
        )
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        height, width = images.shape[1:]
        raise PrepError(
            f"{raw / IMAGES}: images of {height} x {width}, expected {IMAGE_SIZE} x {IMAGE_SIZE}; is this MNIST's file?"
        )
    return images, labels


def _read_recordings(folder: Path) -> tuple[list[_Recording], list[UnreadableFileError]]:
    """Read every ``.wav`` of the folder that is not hidden; other files are none of the data set's."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: not found, expected a folder of <digit>_<speaker>_<index>.wav; "
            "give the directory that holds it."
        )
    recordings, bad = [], []
    for path in sorted(folder.glob("[!.]*.wav")):
        try:
            recordings.append(_read_recording(path))
        except UnreadableFileError as error:
            bad.append(error)
    if not recordings and not bad:
        raise PrepError(f"{folder}: holds no .wav files, expected <digit>_<speaker>_<index>.wav; unpack them there.")
    return recordings, bad


def _read_recording(path: Path) -> _Recording:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise UnreadableFileError(path, "its name is not <digit>_<speaker>_<index>.wav; rename or remove it.")
    waveform, rate = read_wav(path)
    if rate != RATE_HZ:
        raise PrepError(f"{path}: {rate} Hz, expected {RATE_HZ} Hz; resample the recordings.")
    clip = fit_clip(path, waveform, CLIP_SAMPLES)
    return _Recording(path.name, int(match["digit"]), match["speaker"], int(match["index"]), clip)


def _split(recordings: Sequence[_Recording], train_size: int, seed: int) -> dict[str, list[_Recording]]:
    test = [recording for recording in recordings if recording.index < TEST_INDICES]
    others = [recording for recording in recordings if recording.index >= TEST_INDICES]
    if not test or len(others) < train_size:
        raise PrepError(
            f"{len(test)} usable recordings with an index below {TEST_INDICES} for the test split and "
            f"{len(others)} others for the train split, expected at least 1 and {train_size}; "
            "complete the recordings or lower train_size."
        )
    digits = np.array([recording.digit for recording in others])
    rows = np.sort(balanced_order(digits, numpy_generator(seed, f"{NAME}/train"))[:train_size])
    return {"train": [others[row] for row in rows], "test": test}


def _pair(
    splits: dict[str, list[_Recording]],
    images: UInt8[Tensor, "images height width"],
    image_labels: NDArray[np.int64],
    seed: int,
) -> dict[str, CleanDigits]:
    """Give each recording an image of its digit; test is served first, whatever the train split."""
    ordered = splits["test"] + splits["train"]
    digits = np.array([recording.digit for recording in ordered])
    rows = pair_by_label(digits, image_labels, numpy_generator(seed, f"{NAME}/pairs"))
    cut = len(splits["test"])
    parts = {"train": rows[cut:], "test": rows[:cut]}
    return {split: _clean(splits[split], parts[split], images) for split in splits}


def _clean(
    recordings: Sequence[_Recording],
    image_rows: NDArray[np.int64],
    images: UInt8[Tensor, "images height width"],
) -> CleanDigits:
    return CleanDigits(
        ids=[Path(recording.name).stem for recording in recordings],
        labels=np.array([recording.digit for recording in recordings], np.int64),
        groups=[recording.speaker for recording in recordings],
        sources={
            "audio": [f"{RECORDINGS}/{recording.name}" for recording in recordings],
            "visual": [f"{IMAGES}#{row}" for row in image_rows],
        },
        waveforms=torch.stack([recording.waveform for recording in recordings]),
        images=images[torch.from_numpy(image_rows)].float() / 255,
    )
