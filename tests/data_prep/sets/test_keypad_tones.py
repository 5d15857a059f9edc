"""data_prep.sets.keypad_tones: the rendered tones are the recommendation's."""

import numpy as np
import pytest
import torch

from data_prep.sets.keypad_tones import (
    COLUMN_HZ,
    DETUNING,
    LINES,
    ROW_HZ,
    draw_presses,
    render_press,
    tone_pair,
)

RATE, SAMPLES = 8000, 6144

KEYS = {  # ITU-T Q.23, written out by hand
    1: (697, 1209), 2: (697, 1336), 3: (697, 1477),
    4: (770, 1209), 5: (770, 1336), 6: (770, 1477),
    7: (852, 1209), 8: (852, 1336), 9: (852, 1477),
    0: (941, 1336),
}  # fmt: skip


def _render(digits: list[int], seed: int = 0, lines: list[int] | None = None) -> np.ndarray:
    chosen = np.array(lines if lines is not None else [digit % LINES for digit in digits])
    presses = draw_presses(np.array(digits), chosen, RATE, SAMPLES, np.random.default_rng(seed))
    return np.stack([render_press(press, RATE, SAMPLES).numpy() for press in presses])


def _span(clip: np.ndarray) -> tuple[int, int]:
    sounding = np.flatnonzero(clip)
    return int(sounding[0]), int(sounding[-1]) + 1


@pytest.mark.parametrize("digit", range(10))
def test_key_has_its_frequencies(digit: int) -> None:
    assert tone_pair(digit) == KEYS[digit]


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("seed", [0, 1])
def test_spectrum_peaks_at_the_pair(digit: int, seed: int) -> None:
    """Take the strongest frequency on each side of 1,075 Hz.

    1 % detuning, 1 % leakage, keys 9 % apart.
    """
    (clip,) = _render([digit], seed)
    start, stop = _span(clip)
    spectrum = np.abs(np.fft.rfft(clip[start:stop] * np.hanning(stop - start), 65536))
    hz = np.fft.rfftfreq(65536, 1 / RATE)
    low, high = hz < 1075, hz >= 1075
    found = hz[low][spectrum[low].argmax()], hz[high][spectrum[high].argmax()]
    assert found == pytest.approx(KEYS[digit], rel=2 * DETUNING)
    others = set(ROW_HZ + COLUMN_HZ) - set(KEYS[digit])
    assert all(abs(frequency / other - 1) > 0.05 for frequency in found for other in others)


def test_presses_keep_their_ranges_and_use_them() -> None:
    """75 to 300 ms are 600 to 2,400 samples; an edge sample may happen to be zero."""
    clips = _render([digit % 10 for digit in range(400)])
    spans = [_span(clip) for clip in clips]
    lengths = np.array([stop - start for start, stop in spans])
    starts = np.array([start for start, _ in spans])
    assert lengths.min() >= 598
    assert lengths.max() <= 2400
    assert lengths.min() < 700 < 2300 < lengths.max()
    assert starts.min() < 400
    assert starts.max() > 4000
    peaks = np.abs(clips).max(axis=1)
    assert peaks.max() <= 2
    assert peaks.min() >= 0.55  # two gains of at least 0.3 add up at some time of 75 ms, or nearly


def test_calls_of_one_line_resemble_each_other() -> None:
    """The ratio of the two gains, in logs, has equal variance from the line and from the press.

    So within a line it has sqrt(1/2) = 0.71 of its overall standard deviation; 12 lines scatter
    by some 20 %.
    """
    lines = [row % LINES for row in range(600)]
    clips = _render([5] * 600, lines=lines)
    power = np.abs(np.fft.rfft(clips, axis=1)) ** 2
    low = np.fft.rfftfreq(SAMPLES, 1 / RATE) < 1075
    ratio = np.log(power[:, ~low].sum(axis=1) / power[:, low].sum(axis=1)) / 2
    within = np.mean([ratio[np.array(lines) == line].std() for line in range(LINES)])
    assert 0.5 < within / ratio.std() < 0.9


def test_rendering_repeats_with_its_generator() -> None:
    assert np.array_equal(_render([1, 2, 3]), _render([1, 2, 3]))
    assert not np.array_equal(_render([1, 2, 3]), _render([1, 2, 3], seed=1))


def test_result_is_a_float_tensor() -> None:
    (press,) = draw_presses(np.array([1]), np.array([0]), RATE, SAMPLES, np.random.default_rng(0))
    tones = render_press(press, RATE, SAMPLES)
    assert tones.dtype == torch.float32
    assert tones.shape == (SAMPLES,)
