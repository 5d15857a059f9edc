"""av-digits, the embedded data set: handwritten digits seen, keypad tones heard.

Nothing to download.

Visual: the 1,797 handwritten digits of 8 x 8 that come with scikit-learn, scaled to 28 x 28,
each used at most once. Audio: the digit's keypad tone pair, rendered for every sample
(``keypad_tones``). 500 digits are the test split and 1,200 the train split, equally many of each
class in both; the other 97 are not used. Group: one of 12 telephone lines, drawn at random for
every sample and shared by the splits, as speakers are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Plan, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.digits import (
    CLIP_SAMPLES,
    MODALITIES,
    RATE_HZ,
    STORED,
    CleanDigit,
    Levels,
    digit_streams,
    plan_digits,
)
from data_prep.sets.keypad_tones import LINES, KeyPress, draw_presses, render_press
from data_prep.sets.splitting import balanced_order
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality

NAME = "av-digits"
TEST_SIZE = 500
TRAIN_SIZE = 1200
BRIGHTEST = 16
"""Largest pixel of scikit-learn's digits."""


def prepare(
    out: Path,
    *,
    seed: int = 0,
    audio_snr_db: float = -15.0,
    image_noise: float = 2.5,
    modalities: Sequence[Modality] | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare av-digits; the same settings give the same bytes.

    Parameters
    ----------
    out
        The prepared directory to make.
    seed
        Seed of splits, lines, tones and noise, 0 or greater.
    audio_snr_db
        Signal-to-noise ratio of the white noise in dB, relative to the mean power over the whole
        clip.
    image_noise
        Standard deviation of the pixel noise in standardised units, 0 or greater.
    modalities
        What to store of "audio", "visual" and "contour"; None is the first two.
    execution
        Workers, and who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    PrepError
        A setting out of range, or something else at ``out``.
    """
    stored = select_modalities(MODALITIES, STORED if modalities is None else modalities)
    levels = Levels(seed, audio_snr_db, image_noise, stored)
    settings = {
        **levels.settings(),
        "train_size": TRAIN_SIZE,
        "test_size": TEST_SIZE,
        "lines": LINES,
    }

    def make_plan() -> Plan:
        tools = tool_versions("numpy", "torch", "torchaudio", "scikit-learn")
        return plan_digits(
            NAME, _draw_splits(seed), levels, digit_streams(levels, _render, BRIGHTEST), tools
        )

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _render(press: KeyPress) -> Float[Tensor, " samples"]:
    return render_press(press, RATE_HZ, CLIP_SAMPLES)


def _draw_splits(seed: int) -> dict[str, list[CleanDigit]]:
    # Here: it takes seconds, which every node of a prepared run would pay
    from sklearn.datasets import (
        load_digits,
    )

    digits = load_digits()
    labels: NDArray[np.int64] = digits.target.astype(np.int64)
    images = digits.images.astype(np.uint8)
    lines = numpy_generator(seed, f"{NAME}/lines").integers(0, LINES, len(labels))
    presses = draw_presses(
        labels, lines, RATE_HZ, CLIP_SAMPLES, numpy_generator(seed, f"{NAME}/tones")
    )

    def digit(row: int) -> CleanDigit:
        raw = {"audio": presses[row], "visual": images[row].tobytes()}
        sources = {
            "audio": f"ITU-T Q.23 key {labels[row]}",
            "visual": f"sklearn.datasets.load_digits#{row}",
        }
        return CleanDigit(
            f"digit-{row:04d}", int(labels[row]), f"line-{lines[row]:02d}", raw, sources
        )

    order = balanced_order(labels, numpy_generator(seed, f"{NAME}/splits"))
    test, train = np.sort(order[:TEST_SIZE]), np.sort(order[TEST_SIZE : TEST_SIZE + TRAIN_SIZE])

    return {
        "train": [digit(row) for row in train.tolist()],
        "test": [digit(row) for row in test.tolist()],
    }
