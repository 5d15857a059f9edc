"""What a feature extractor does with sound: waveforms normalised, or Whisper's log-mel
spectrograms.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.encoders.stored_units import Stored

TINY = 1e-7
"""Added to a waveform's variance: that of wav2vec2's feature extractor."""


class Waveform(Stored):
    """Give each waveform mean 0 and variance 1, where the feature extractor does.

    Parameters
    ----------
    modality
        A series of one channel.
    fields
        The feature extractor's.
    """

    def __init__(self, modality: ModalitySpec, fields: Mapping[str, Any]) -> None:
        super().__init__(modality)
        self.normalised = bool(fields.get("do_normalize", False))

    def forward(self, x: Float[Tensor, "batch 1 time"]) -> dict[str, Tensor]:
        """Return the trunk's arguments."""
        waves = self.stored(x).squeeze(1)
        if self.normalised:
            variance, mean = torch.var_mean(waves, dim=1, correction=0, keepdim=True)
            waves = (waves - mean) / (variance + TINY).sqrt()

        return {"input_values": waves}


class LogMel(Stored):
    """Make Whisper's log-mel spectrogram of each waveform, padded with silence.

    Parameters
    ----------
    modality
        A series of one channel, no longer than the model reads.
    config
        Of the model.
    fields
        Of Whisper's feature extractor.
    """

    waves: Tensor
    bank: Tensor

    def __init__(self, modality: ModalitySpec, config: Any, fields: Mapping[str, Any]) -> None:  # noqa: ANN401
        super().__init__(modality)
        if not hasattr(config, "max_source_positions") or not hasattr(config, "num_mel_bins"):
            raise ValueError(
                f"encoder 'auto' of modality {modality.name!r}: of the models that read "
                f"spectrograms only Whisper's encoder is known, found {config.model_type!r}."
            )
        if int(fields.get("feature_size", config.num_mel_bins)) != config.num_mel_bins:
            raise ValueError(
                f"modality {modality.name!r}: the processor makes {fields['feature_size']} mel "
                f"bands, the model reads {config.num_mel_bins}."
            )

        with needs("text"):
            from transformers.audio_utils import mel_filter_bank

        self.window, self.hop = int(fields.get("n_fft", 400)), int(fields.get("hop_length", 160))
        # The second of its convolutions takes every other
        self.length = 2 * int(config.max_source_positions) * self.hop
        if modality.shape[-1] > self.length:
            raise ValueError(
                f"modality {modality.name!r}: waveforms of {modality.shape[-1]} points, the model "
                f"reads {self.length}; prepare the data with fewer seconds."
            )

        rate, bins = int(fields.get("sampling_rate", 16000)), 1 + self.window // 2
        bank = mel_filter_bank(
            bins, config.num_mel_bins, 0.0, 8000.0, rate, norm="slaney", mel_scale="slaney"
        )
        angles = (
            2
            * math.pi
            * torch.arange(bins)[:, None]
            * torch.arange(self.window)[None].double()
            / self.window
        )
        hann = torch.hann_window(self.window, dtype=torch.float64)
        waves = torch.cat([angles.cos() * hann, angles.sin() * hann]).float()
        self.register_buffer("waves", waves.T.contiguous(), persistent=False)
        self.register_buffer("bank", torch.from_numpy(bank).float(), persistent=False)

    def forward(self, x: Float[Tensor, "batch 1 time"]) -> dict[str, Tensor]:
        """Return the trunk's arguments."""
        waves = self.stored(x)
        waves = nn.functional.pad(waves, (0, self.length - waves.shape[-1]))
        waves = nn.functional.pad(
            waves, (self.window // 2, self.window // 2), mode="reflect"
        ).squeeze(1)
        parts = waves.unfold(1, self.window, self.hop)[:, :-1] @ self.waves
        real, imaginary = parts.chunk(2, dim=2)
        power = (real.square() + imaginary.square()) @ self.bank

        logarithm = power.clamp(min=1e-10).log10().transpose(1, 2)
        loudest = logarithm.amax(dim=(1, 2), keepdim=True)

        return {"input_features": (torch.maximum(logarithm, loudest - 8.0) + 4.0) / 4.0}
