"""Waveforms at another rate: windowed sinc, with memory that does not depend on the rates."""

import functools
import math

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

_LARGEST_KERNEL = 1 << 22
"""Weights of a kernel that is made once for a pair of rates; 16,001 to 16,000 Hz would take 256
million."""
_WIDTH = 6
"""Zero crossings on each side, and share of the lower Nyquist frequency that passes:
torchaudio's defaults."""
_ROLLOFF = 0.99
_BLOCK = 1 << 20
"""Weights that are in memory at a time where they are computed as they are needed."""


def resample(
    waveform: Float[Tensor, " samples"], rate: int, wanted: int
) -> Float[Tensor, " resampled"]:
    """Resample a waveform (windowed sinc).

    The kernel of each pair of rates is computed once per process.

    Parameters
    ----------
    waveform
        [samples].
    rate
        Its samples per second.
    wanted
        Samples per second of the result.

    Returns
    -------
    [resampled], the least whole number at or above samples * wanted / rate.
    """
    if rate == wanted:
        return waveform

    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    taps = 2 * math.ceil(_WIDTH * old / (min(old, new) * _ROLLOFF)) + old
    if new * taps <= _LARGEST_KERNEL:
        resampled: Tensor = _resampler(rate, wanted)(waveform)
        return resampled

    return _by_blocks(waveform, old, new)


@functools.lru_cache(maxsize=8)
def _resampler(rate: int, wanted: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, wanted)


def _by_blocks(
    waveform: Float[Tensor, " samples"], old: int, new: int
) -> Float[Tensor, " resampled"]:
    """Resample by the same formula, with the weights of some samples at a time instead of a kernel
    for all phases.
    """
    cutoff = min(old, new) / old * _ROLLOFF  # in cycles per two samples
    reach = math.ceil(_WIDTH / cutoff)
    count = -(-len(waveform) * new // old)
    padded = torch.nn.functional.pad(waveform, (reach, reach + 1))
    offsets = torch.arange(-reach, reach + 2)
    step = max(1, _BLOCK // len(offsets))
    parts = []
    for start in range(0, count, step):
        numbers = torch.arange(start, min(start + step, count))
        nearest = numbers * old // new
        fraction = (numbers * old % new).double() / new
        distance = (fraction[:, None] - offsets) * cutoff
        clipped = distance.clamp(-_WIDTH, _WIDTH)
        weights = cutoff * torch.sinc(clipped) * torch.cos(clipped * math.pi / _WIDTH / 2).square()
        values = padded[nearest[:, None] + offsets + reach]
        parts.append((values * weights.float()).sum(dim=1))

    return torch.cat(parts)
