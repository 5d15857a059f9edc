"""What a model's own processor does with samples: on its device, a whole batch at once.

A sample comes normalised by the federation's mean and deviation, which is undone first. Everything
is made of plain matrix products, so that it is exported with the model.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs

RESAMPLING = {2: 1.0, 3: 2.0}
"""Pillow's number of a filter -> how far it reaches in pixels: bilinear, bicubic."""
TINY = 1e-7
"""Added to a waveform's variance: that of wav2vec2's feature extractor."""


def processor_for(modality: ModalitySpec, trunk: nn.Module, fields: Mapping[str, Any]) -> nn.Module:
    """Return what leads from a batch as :class:`Views` shows it to the trunk's arguments.

    Parameters
    ----------
    modality
        The samples.
    trunk
        From ``towers.build_tower``.
    fields
        What of the processor decides the input, from ``published.read_processor``; none: samples
        go in as they are.

    Returns
    -------
    A module without trained weights or entries of the state_dict.

    Raises
    ------
    ValueError
        Samples that the model cannot read.
    """
    config: Any = trunk.config
    if modality.kind == "tokens":
        return Tokens(modality, trunk, config, fields)
    if modality.kind != "series":
        return Images(modality, config, fields)
    if modality.channels != 1:
        raise ValueError(
            f"modality {modality.name!r}: a series of {modality.channels} channels; the model "
            "reads the waveform of one: prepare the sound as kind `waveform`."
        )
    if trunk.main_input_name == "input_values":
        return Waveform(modality, fields)

    return LogMel(modality, config, fields)


class Stored(nn.Module):
    """Undoes the federation's normalisation.

    Parameters
    ----------
    modality
        The samples.
    """

    stored_mean: Tensor
    stored_std: Tensor

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        for name, value in (("mean", modality.mean), ("std", modality.std)):
            along = torch.tensor(value, dtype=torch.float32).reshape(
                -1, *[1] * modality.axes_behind
            )
            self.register_buffer(f"stored_{name}", along, persistent=False)

    def stored(self, x: Tensor) -> Tensor:
        """Return samples in stored units."""
        return x * self.stored_std + self.stored_mean


class Images(Stored):
    """Scale, crop and normalise images as an image processor does, but for its rounding.

    Parameters
    ----------
    modality
        Images or frames of 1 or 3 channels, of bytes where ``fields`` says how to rescale them.
    config
        Of the model.
    fields
        The processor's; without any, an image is only scaled to the size that the model has
        positions for.
    """

    own_mean: Tensor
    own_std: Tensor

    def __init__(self, modality: ModalitySpec, config: Any, fields: Mapping[str, Any]) -> None:  # noqa: ANN401
        super().__init__(modality)
        wanted = int(getattr(config, "num_channels", 3))
        if modality.channels not in (1, wanted):
            raise ValueError(
                f"modality {modality.name!r}: images of {modality.channels} channels, the model "
                f"reads {wanted}."
            )
        if fields and modality.dtype != "uint8":
            raise ValueError(
                f"modality {modality.name!r}: images of {modality.dtype}, but the model's "
                "processor reads bytes of 0 to 255 (uint8): prepare them as kind `image`."
            )

        self.channels, self.as_shown = wanted, not fields
        self.scaled, self.cropped, self.filter = _image_sizes(config, fields)
        factor = (
            float(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 1.0
        )
        plain = not fields.get("do_normalize", True)

        for name, neutral in (("mean", 0.0), ("std", 1.0)):
            value = neutral if plain else fields.get(f"image_{name}", neutral)
            along = torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1) / factor
            self.register_buffer(f"own_{name}", along, persistent=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Return the trunk's arguments."""
        pixels = x if self.as_shown else self.stored(x)
        pixels = self._resized(pixels)
        if pixels.shape[1] < self.channels:
            pixels = pixels.expand(-1, self.channels, -1, -1)

        return {
            "pixel_values": pixels if self.as_shown else (pixels - self.own_mean) / self.own_std
        }

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        scaled = self.scaled
        if isinstance(scaled, int):  # the shorter side
            short = min(height, width)
            scaled = (height * scaled // short, width * scaled // short)

        cropped = self.cropped or scaled
        if scaled is None or cropped is None or (height, width) == scaled == cropped:
            return pixels
        if cropped[0] > scaled[0] or cropped[1] > scaled[1]:
            raise ValueError(
                f"the model's processor crops {list(cropped)} pixels out of {list(scaled)}."
            )

        rows = _weights(height, scaled[0], cropped[0], self.filter).to(pixels)
        columns = _weights(width, scaled[1], cropped[1], self.filter).to(pixels)

        return rows @ pixels @ columns.T


def _image_sizes(
    config: Any,  # noqa: ANN401
    fields: Mapping[str, Any],
) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None, int]:
    """Return the size to scale to (an int: of the shorter side), the crop's, and the filter."""
    own = getattr(config, "image_size", None)
    scaled: Any = (own, own) if isinstance(own, int) else own and tuple(own)
    if fields.get("do_resize", bool(fields)) and fields.get("size"):
        size = fields["size"]
        size = (
            {"shortest_edge": size} if isinstance(size, int) and fields.get("crop_size") else size
        )
        size = {"height": size, "width": size} if isinstance(size, int) else size
        if "shortest_edge" in size and fields.get("crop_pct"):
            return _of_convnext(
                int(size["shortest_edge"]), float(fields["crop_pct"]), _filter(fields)
            )

        if "shortest_edge" in size:
            scaled = int(size["shortest_edge"])
        elif "height" in size and "width" in size:
            scaled = (int(size["height"]), int(size["width"]))
        else:
            raise ValueError(
                f"encoder 'auto': the processor's size is {size}; known are height and width, or "
                "shortest_edge."
            )

    cropped = None
    if fields.get("do_center_crop") and fields.get("crop_size"):
        crop = fields["crop_size"]
        cropped = (
            (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
        )

    return scaled, cropped, _filter(fields)


def _of_convnext(
    edge: int, share: float, resample: int
) -> tuple[tuple[int, int] | int, tuple[int, int], int]:
    """Return the same of ConvNeXt's processor.

    Small images are cut out of larger ones, large are stretched.
    """
    return (int(edge / share) if edge < 384 else (edge, edge)), (edge, edge), resample


def _filter(fields: Mapping[str, Any]) -> int:
    """Return Pillow's number of the filter; ValueError for one that is not here."""
    resample = int(fields.get("resample") or 2)
    if resample not in RESAMPLING:
        raise ValueError(
            f"encoder 'auto': the processor's resample is {resample}; known are {list(RESAMPLING)}."
        )

    return resample


@functools.lru_cache(maxsize=64)
def _weights(
    pixels: int, scaled: int, cropped: int, resample: int
) -> Float[Tensor, "cropped pixels"]:
    """Return the weights of an antialiased scaling, without the rows that a crop leaves out."""
    step = pixels / scaled
    wide = max(step, 1.0)
    first = (scaled - cropped) // 2
    centre = (np.arange(first, first + cropped)[:, None] + 0.5) * step
    distance = np.abs(np.arange(pixels)[None] + 0.5 - centre) / wide
    weight = np.where(distance < RESAMPLING[resample], _kernel(distance, resample), 0.0)

    return torch.from_numpy((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))


def _kernel(distance: NDArray[np.float64], resample: int) -> NDArray[np.float64]:
    """Return a triangle, or Keys' cubic with a = -1/2, at these distances."""
    if resample == 2:
        return 1 - distance

    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2

    return np.where(distance < 1, near, far)


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


class Tokens(nn.Module):
    """Give tokens their numbers in the model's own vocabulary, and mask padding.

    A tokenizer whose padding is token 0 has its numbers stored as they are; of another one they
    are stored one higher, and padding as 0. Position 0 is never masked, so that an empty text has
    a token too.

    Parameters
    ----------
    modality
        Tokens.
    trunk
        The model.
    config
        Its configuration.
    fields
        ``pad_token_id``: the tokenizer's; none: the configuration's.

    Raises
    ------
    ValueError
        More tokens than the model has positions.
    """

    def __init__(
        self,
        modality: ModalitySpec,
        trunk: nn.Module,
        config: Any,  # noqa: ANN401
        fields: Mapping[str, Any],
    ) -> None:
        super().__init__()
        padding = fields.get("pad_token_id", getattr(config, "pad_token_id", None))
        self.shift = 0 if padding == 0 else 1
        self.padding = int(padding or 0)

        positions = getattr(config, "max_position_embeddings", None)
        table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
        first = getattr(table, "padding_idx", None)
        if positions and first is not None:
            positions -= int(first) + 1  # RoBERTa counts from there

        if positions and modality.shape[0] > positions:
            raise ValueError(
                f"modality {modality.name!r}: samples of {modality.shape[0]} tokens, but the "
                f"model has {positions} positions; prepare the data with fewer tokens."
            )

    def forward(self, x: Int[Tensor, "batch time"]) -> dict[str, Tensor]:
        """Return the trunk's arguments."""
        mask = x > 0
        first = torch.arange(x.shape[1], device=x.device) == 0
        numbers = torch.where(mask, x - self.shift, self.padding)

        return {"input_ids": numbers, "attention_mask": (mask | first).long()}
