"""The energy-and-pitch contour of recordings: how loud, how high and how voiced, moment by moment.

A third view of a recording beside its spectrogram. It is computed from the same noisy samples,
so it says nothing that these do not, and given the class the two are not independent.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHANNELS = ("ln energy", "ln pitch in Hz", "voicing")
FRAME = 400
"""Samples of a frame; at 8 kHz 50 ms, four periods of the lowest pitch."""
LOWEST_HZ = 80.0
HIGHEST_HZ = 400.0


def contour(
    waveforms: Float[Tensor, "batch samples"], rate: int, hop: int, floor: float
) -> Float[Tensor, "batch 3 frames"]:
    """Return the channels of ``CHANNELS``, of frames centred as those of
    :func:`data_prep.media.audio.log_mel`.

    With the frame's samples x and the autocorrelation r(lag) = sum x(t) x(t + lag) / sqrt(sum
    x(t)^2 sum x(t + lag)^2) over the t with both in the frame, the pitch is rate / lag at the
    largest r of all lags between ``HIGHEST_HZ`` and ``LOWEST_HZ``, and that r is the voicing:
    near 1 in a vowel, near 0 in noise, where the pitch says nothing.

    Parameters
    ----------
    waveforms
        [batch, samples], more than half a frame.
    rate
        Samples per second.
    hop
        Samples from one frame to the next.
    floor
        Added to the mean power before the logarithm; above 0, so that silence is finite.

    Returns
    -------
    [batch, 3, samples // hop + 1].
    """
    padded = torch.nn.functional.pad(
        waveforms.unsqueeze(1), (FRAME // 2, FRAME // 2), mode="reflect"
    ).squeeze(1)
    frames = padded.unfold(1, FRAME, hop)
    energy = (frames.square().mean(dim=2) + floor).log()
    lags = torch.arange(round(rate / HIGHEST_HZ), round(rate / LOWEST_HZ) + 1)
    correlation = torch.stack([_correlation(frames, int(lag)) for lag in lags], dim=2)
    voicing, place = correlation.max(dim=2)

    return torch.stack([energy, (rate / lags[place]).log(), voicing], dim=1)


def _correlation(
    frames: Float[Tensor, "batch frames samples"], lag: int
) -> Float[Tensor, "batch frames"]:
    """Return r(lag); 0 where there is silence."""
    early, late = frames[..., :-lag], frames[..., lag:]
    power = early.square().sum(dim=2) * late.square().sum(dim=2)
    return (early * late).sum(dim=2) / power.sqrt().clamp(min=torch.finfo(frames.dtype).tiny)
