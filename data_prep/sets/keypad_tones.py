"""Telephone keypad tones: each digit is a pair of tones, heard over a line of its own.

Source of the frequencies: ITU-T Recommendation Q.23. Onset, length, gain and detuning are
choices of this project.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class KeyPress:
    """One press of a key as it is heard; both tones, the row's first."""

    onset: int
    """First sample that sounds."""
    length: int
    """Samples that sound."""
    gains: tuple[float, float]
    hertz: tuple[float, float]
    phases: tuple[float, float]
    """Radians."""


def draw_presses(
    digits: NDArray[np.int64],
    lines: NDArray[np.int64],
    rate: int,
    samples: int,
    generator: np.random.Generator,
) -> list[KeyPress]:
    """Draw one key press per clip, with silence around it.

    A press lasts 75 to 300 ms and starts anywhere that lets it end inside the clip. Half of what
    makes presses differ belongs to the line: each tone's gain is a line's factor times a press's
    factor, both uniform in [sqrt(0.3), 1], so 0.3 to 1; both tones are detuned by a line's share
    plus a press's share, both uniform within 0.5 %, so 1 % at most.

    Parameters
    ----------
    digits
        [batch], 0 to 9.
    lines
        [batch], the line of each press, 0 to LINES - 1. Call once for all splits: the lines are
        drawn here.
    rate
        Samples per second.
    samples
        Length of a clip, at least the longest press.
    generator
        Source of randomness.

    Returns
    -------
    As many presses as there are digits.
    """
    factor = math.sqrt(LOWEST_GAIN)
    line_gains = generator.uniform(factor, 1, (LINES, 2))
    line_detuning = generator.uniform(-DETUNING / 2, DETUNING / 2, LINES)

    presses = []
    for digit, line in zip(digits, lines, strict=True):
        length = int(
            generator.integers(round(SHORTEST_S * rate), round(LONGEST_S * rate), endpoint=True)
        )
        onset = int(generator.integers(0, samples - length, endpoint=True))
        gains = line_gains[line] * generator.uniform(factor, 1, 2)
        detuning = line_detuning[line] + generator.uniform(-DETUNING / 2, DETUNING / 2)
        phases = generator.uniform(0, 2 * math.pi, 2)
        hertz = np.array(tone_pair(int(digit))) * (1 + detuning)
        presses.append(KeyPress(onset, length, _pair(gains), _pair(hertz), _pair(phases)))

    return presses


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = values.tolist()
    return low, high


def render_press(press: KeyPress, rate: int, samples: int) -> Float[Tensor, " samples"]:
    """Render a key press without noise.

    Parameters
    ----------
    press
        From :func:`draw_presses`.
    rate
        Samples per second.
    samples
        Length of the clip, which the press does not reach beyond.

    Returns
    -------
    [samples], within [-2, 2].
    """
    times = np.arange(press.length)
    angles = (
        2 * math.pi * np.array(press.hertz)[:, None] * times / rate
        + np.array(press.phases)[:, None]
    )
    clip = np.zeros(samples, np.float32)
    clip[press.onset : press.onset + press.length] = np.array(press.gains) @ np.sin(angles)

    return torch.from_numpy(clip)
