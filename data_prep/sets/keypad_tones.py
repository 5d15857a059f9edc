"""Telephone keypad tones: each digit is a pair of tones, heard over a line of its own.

Source: ITU-T Recommendation Q.23 (frequencies); datasets.md, "av-digits" (onset, length, gain, detuning).
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

ROW_HZ = (697.0, 770.0, 852.0, 941.0)
COLUMN_HZ = (1209.0, 1336.0, 1477.0)
KEYPAD = ("123", "456", "789", "*0#")

SHORTEST_S, LONGEST_S = 0.075, 0.3
LOWEST_GAIN = 0.3
DETUNING = 0.01
LINES = 12


def tone_pair(digit: int) -> tuple[float, float]:
    """Return the row and the column frequency of a digit's key in Hz.

    Parameters
    ----------
    digit
        0 to 9.

    Returns
    -------
    Low and high frequency.

    Examples
    --------
    >>> tone_pair(0), tone_pair(5)
    ((941.0, 1336.0), (770.0, 1336.0))
    """
    row = next(row for row, keys in enumerate(KEYPAD) if str(digit) in keys)
    return ROW_HZ[row], COLUMN_HZ[KEYPAD[row].index(str(digit))]


def render_tones(
    digits: NDArray[np.int64],
    lines: NDArray[np.int64],
    rate: int,
    samples: int,
    generator: np.random.Generator,
) -> Float[Tensor, "batch samples"]:
    """Render one key press per clip, silence around it, no noise.

    A press lasts 75 to 300 ms and starts anywhere that lets it end inside the clip. Half of what makes
    presses differ belongs to the line: each tone's gain is a line's factor times a press's factor, both
    uniform in [sqrt(0.3), 1], so 0.3 to 1; both tones are detuned by a line's share plus a press's share,
    both uniform within 0.5 %, so 1 % at most.

    Parameters
    ----------
    digits
        [batch], 0 to 9.
    lines
        [batch], the line of each press, 0 to LINES - 1. Call once for all splits: the lines are drawn here.
    rate
        Samples per second.
    samples
        Length of a clip, at least the longest press.
    generator
        Source of randomness.

    Returns
    -------
    [batch, samples], within [-2, 2].
    """
    factor = math.sqrt(LOWEST_GAIN)
    line_gains = generator.uniform(factor, 1, (LINES, 2))
    line_detuning = generator.uniform(-DETUNING / 2, DETUNING / 2, LINES)
    clips = np.zeros((len(digits), samples), np.float32)
    for clip, digit, line in zip(clips, digits, lines, strict=True):
        length = int(generator.integers(round(SHORTEST_S * rate), round(LONGEST_S * rate), endpoint=True))
        onset = int(generator.integers(0, samples - length, endpoint=True))
        gains = line_gains[line] * generator.uniform(factor, 1, 2)
        detuning = line_detuning[line] + generator.uniform(-DETUNING / 2, DETUNING / 2)
        phases = generator.uniform(0, 2 * math.pi, 2)
        hz = np.array(tone_pair(int(digit))) * (1 + detuning)
        angles = 2 * math.pi * hz[:, None] * np.arange(length) / rate + phases[:, None]
        clip[onset : onset + length] = gains @ np.sin(angles)
    return torch.from_numpy(clips)
