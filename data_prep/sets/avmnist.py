"""AV-MNIST: spoken digits heard, handwritten digits seen, paired by digit.

Raw archive: ``recordings/<digit>_<speaker>_<index>.wav`` (the Free Spoken Digit Dataset, 8 kHz)
beside ``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz`` (MNIST's test half). The
test split is the recordings with index below 10; the train split is drawn from the others,
equally many of each digit as far as they reach. Every image is used at most once. Group: the
speaker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.audio import fit_clip, read_sound
from data_prep.media.grey import read_idx_images, read_idx_labels
from data_prep.media.signature import refuse_pointers
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion, Plan, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.digits import (
    CLIP_SAMPLES,
    IMAGE_SIZE,
    MODALITIES,
    RATE_HZ,
    STORED,
    CleanDigit,
    Levels,
    digit_streams,
    plan_digits,
)
from data_prep.sets.splitting import balanced_order, pair_by_label
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality

NAME = "avmnist"
RECORDINGS = "recordings"
IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"
BRIGHTEST = 255
"""Largest pixel of MNIST."""
TEST_INDICES = 10
"""Recordings with an index below this are the test split."""

_FILE_NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>.+)_(?P<index>[0-9]+)\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class _Recording:
    """One readable recording."""

    path: Path
    digit: int
    speaker: str
    index: int


def prepare(
    raw: Path,
    out: Path,
    *,
    seed: int = 0,
    audio_snr_db: float = -5.0,
    image_noise: float = 2.5,
    train_size: int = 1000,
    modalities: Sequence[Modality] | None = None,
    execution: Execution = SERIAL,
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
        Signal-to-noise ratio of the white noise in dB, relative to the mean power over the whole
        clip.
    image_noise
        Standard deviation of the pixel noise in standardised units, 0 or greater.
    train_size
        Number of train samples, 1 or greater.
    modalities
        What to store of "audio", "visual" and "contour"; None is the first two. The raw archive
        must be complete all the same.
    execution
        Workers, how many recordings may be left out because they cannot be used, and who is told.

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
    stored = select_modalities(MODALITIES, STORED if modalities is None else modalities)
    levels = Levels(seed, audio_snr_db, image_noise, stored)
    if train_size < 1:
        raise PrepError(f"train_size = {train_size}: must be at least 1.")

    settings = {**levels.settings(), "train_size": train_size, "max_bad": execution.max_bad}

    def make_plan() -> Plan:
        images, labels = _read_mnist(raw)
        recordings, bad = _read_recordings(raw.resolve() / RECORDINGS, execution.max_bad)
        excluded = [Exclusion(error.path.stem, "", error.path.name, error.reason) for error in bad]
        execution.tolerate(excluded)
        splits = _pair(_split(recordings, train_size, seed), images, labels, seed)
        tools = tool_versions("numpy", "torch", "torchaudio", "soundfile")

        return plan_digits(
            NAME, splits, levels, digit_streams(levels, read_clip, BRIGHTEST), tools, excluded
        )

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _read_mnist(raw: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = read_idx_images(raw / IMAGES).numpy(), read_idx_labels(raw / LABELS).numpy()
    if len(images) != len(labels):
        raise PrepError(
            f"{raw}: {len(images)} images in {IMAGES} but {len(labels)} labels in {LABELS}; fetch "
            "both again."
        )

    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        height, width = images.shape[1:]
        raise PrepError(
            f"{raw / IMAGES}: images of {height} x {width}, expected {IMAGE_SIZE} x {IMAGE_SIZE}; "
            "is this MNIST's file?"
        )

    return images, labels


def _read_recordings(
    folder: Path, allowed: int
) -> tuple[list[_Recording], list[UnreadableFileError]]:
    """Read every ``.wav`` of the folder that is not hidden, by name.

    Which ones can be used decides the splits.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: not found, expected a folder of <digit>_<speaker>_<index>.wav; "
            "give the directory that holds it."
        )

    recordings, bad = [], []
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() == ".wav")
    refuse_pointers(found, allowed)
    for path in found:
        try:
            recordings.append(_read_recording(path))
        except UnreadableFileError as error:
            bad.append(error)

    if not recordings and not bad:
        raise PrepError(
            f"{folder}: holds no .wav files, expected <digit>_<speaker>_<index>.wav; unpack them "
            "there."
        )

    return recordings, bad


def _read_recording(path: Path) -> _Recording:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise UnreadableFileError(
            path, "its name is not <digit>_<speaker>_<index>.wav; rename or remove it."
        )

    read_clip(str(path))

    return _Recording(path, int(match["digit"]), match["speaker"], int(match["index"]))


def read_clip(file: str) -> Float[Tensor, " samples"]:
    """Read a recording as a clip of the digit tasks.

    Parameters
    ----------
    file
        A WAV file of RATE_HZ.

    Returns
    -------
    [CLIP_SAMPLES], not silent.

    Raises
    ------
    UnreadableFileError
        A file that cannot be used.
    PrepError
        Another rate.
    """
    path = Path(file)
    waveform, rate = read_sound(path)
    if rate != RATE_HZ:
        raise PrepError(f"{path}: {rate} Hz, expected {RATE_HZ} Hz; resample the recordings.")

    return fit_clip(path, waveform, CLIP_SAMPLES)


def _split(
    recordings: Sequence[_Recording], train_size: int, seed: int
) -> dict[str, list[_Recording]]:
    test = [recording for recording in recordings if recording.index < TEST_INDICES]
    others = [recording for recording in recordings if recording.index >= TEST_INDICES]
    if not test or len(others) < train_size:
        raise PrepError(
            f"{len(test)} usable recordings with an index below {TEST_INDICES} for the test split "
            f"and {len(others)} others for the train split, expected at least 1 and {train_size}; "
            "complete the recordings or lower train_size."
        )

    digits = np.array([recording.digit for recording in others])
    rows = np.sort(balanced_order(digits, numpy_generator(seed, f"{NAME}/train"))[:train_size])

    return {"train": [others[row] for row in rows], "test": test}


def _pair(
    splits: dict[str, list[_Recording]],
    images: NDArray[np.uint8],
    image_labels: NDArray[np.int64],
    seed: int,
) -> dict[str, list[CleanDigit]]:
    """Give each recording an image of its digit; test is served first, whatever the train split."""
    ordered = splits["test"] + splits["train"]
    digits = np.array([recording.digit for recording in ordered])
    rows = pair_by_label(digits, image_labels, numpy_generator(seed, f"{NAME}/pairs"))
    paired = [
        _clean(recording, int(row), images) for recording, row in zip(ordered, rows, strict=True)
    ]
    cut = len(splits["test"])

    return {"train": paired[cut:], "test": paired[:cut]}


def _clean(recording: _Recording, image_row: int, images: NDArray[np.uint8]) -> CleanDigit:
    path = recording.path
    raw = {"audio": str(path), "visual": images[image_row].tobytes()}
    sources = {"audio": f"{RECORDINGS}/{path.name}", "visual": f"{IMAGES}#{image_row}"}

    return CleanDigit(path.stem, recording.digit, recording.speaker, raw, sources)
