"""What an image processor does with images: scale, crop and normalise, a whole batch at once."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.stored_units import Stored

RESAMPLING = {2: 1.0, 3: 2.0}
"""Pillow's number of a filter -> how far it reaches in pixels: bilinear, bicubic."""


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
