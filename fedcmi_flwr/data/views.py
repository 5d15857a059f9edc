"""From stored values to what an encoder sees.

The frames, the crop and the normalisation, a whole batch at a time.

A sample has an evaluation view, always the same, and training views, which differ from epoch to
epoch. Batches come to the device in their stored dtype and are cropped and normalised there.
torchvision's transforms draw one crop for all that they are given, so a batch of them would
share its crop: here every sample has its own, and all are cut out, scaled and mirrored at once
by two batched matrix products.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import ViewConfig
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Modality

VISUAL = ("image", "frames")
"""Kinds that have a view of their own; the others are seen as they are stored."""
CROP_SHARE = (0.08, 1.0)
"""Of a sample's area, drawn evenly for a training view."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width to height of the crop, its logarithm drawn evenly."""
ATTEMPTS = 10
"""Crops that are drawn for a sample; the first that fits is taken, and the largest central one
if none does."""
EVALUATION_BATCH = 256
"""Samples in a batch where no gradient is needed, unless they are large."""
EVALUATION_VALUES = 2**23
"""Input values of one modality in such a batch, at most."""

HUGE = 2**20
"""Values of a large batch."""


@dataclass(frozen=True)
class Views:
    """How the samples of a federation are looked at."""

    augmented: tuple[Modality, ...] = ()
    """Image and frames modalities that training crops and mirrors at random."""
    size: int = 0
    """Height and width of the view of image and frames modalities, in pixels; 0: as stored."""
    frames: int = 0
    """Frames of a view; 0: all that are stored."""

    def frame_indices(
        self, modality: ModalitySpec, samples: int, generator: torch.Generator | None
    ) -> NDArray[np.int64] | None:
        """Return the stored frames that a view shows: one of each of ``frames`` equal segments.

        Parameters
        ----------
        modality
            What is looked at.
        samples
            Number of samples.
        generator
            Draws one frame of each segment, for each sample; None: the middle one, the first of
            two.

        Returns
        -------
        [samples, frames], ascending; None where all are shown.

        Examples
        --------
        >>> clip = ModalitySpec("visual", "frames", (10, 3, 8, 8), "uint8")
        >>> Views(frames=4).frame_indices(clip, 1, None)
        array([[0, 3, 5, 8]])
        """
        if modality.kind != "frames" or self.frames == 0:
            return None

        bounds = np.arange(self.frames + 1) * modality.shape[0] // self.frames
        first, count = bounds[:-1], np.diff(bounds)
        if generator is None:
            return np.tile(first + (count - 1) // 2, (samples, 1))

        drawn = torch.rand(samples, self.frames, generator=generator, dtype=torch.float64).numpy()

        return np.asarray(first + np.floor(drawn * count), dtype=np.int64)

    def show(
        self, stored: Tensor, modality: ModalitySpec, generator: torch.Generator | None
    ) -> Tensor:
        """Return what the encoder sees of a batch.

        Parameters
        ----------
        stored
            [batch, *shape] in stored units, on any device.
        modality
            What it is.
        generator
            Draws a training view, on the CPU; None: the evaluation view.

        Returns
        -------
        Normalised; float32, or int64 for tokens.
        """
        if modality.kind in VISUAL:
            height, width = stored.shape[-2:]
            size = (self.size or height, self.size or width)
            if generator is not None and modality.name in self.augmented:
                boxes = random_boxes(len(stored), height, width, generator).to(
                    stored.device, non_blocking=True
                )
                mirrored = (torch.rand(len(stored), generator=generator) < 0.5).to(
                    stored.device, non_blocking=True
                )
                stored = cut_out(stored.float(), boxes, mirrored, size)
            elif size != (height, width):
                planes = stored.float().flatten(0, -4)  # frames beside samples
                scaled = F.interpolate(planes, size, mode="bilinear", antialias=True)
                stored = scaled.reshape(*stored.shape[:-2], *size)

        return normalise(stored, modality)

    def repeat(self, modality: ModalitySpec) -> bool:
        """Return whether training sees a sample unchanged in every epoch, as evaluation does."""
        drawn = modality.kind == "frames" and self.frames > 0
        return modality.name not in self.augmented and not drawn

    def evaluation_batch(self, modalities: Sequence[ModalitySpec]) -> int:
        """Return the samples of a batch where no gradient is needed.

        Fewer than EVALUATION_BATCH of large ones.
        """
        largest = max(math.prod(self._shape(modality)) for modality in modalities)
        return max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // largest))

    def _shape(self, modality: ModalitySpec) -> tuple[int, ...]:
        shape = modality.shape
        if modality.kind in VISUAL and self.size:
            shape = (*shape[:-2], self.size, self.size)

        return (self.frames, *shape[1:]) if modality.kind == "frames" and self.frames else shape


AS_STORED = Views()
"""Nothing is left out, scaled or drawn."""


def views_from(config: ViewConfig) -> Views:
    """Return the views that the keys ``augment``, ``view-size`` and ``view-frames`` ask for."""
    names = tuple(config.augment.split("+")) if config.augment else ()
    return Views(names, config.view_size, config.view_frames)


def check_views(views: Views, modalities: Sequence[ModalitySpec]) -> None:
    """Raise ConfigError when a key asks for what the stored modalities cannot give.

    Parameters
    ----------
    views
        From :func:`views_from`.
    modalities
        All that are stored, whether the federation trains on them or not.
    """
    kinds = {modality.name: modality.kind for modality in modalities}
    for name in views.augmented:
        if kinds.get(name) not in VISUAL:
            fit = [known for known, kind in kinds.items() if kind in VISUAL]
            near = did_you_mean(name, fit)
            raise ConfigError(
                f"augment: {name!r} is not one of the modalities of images or frames, {fit}.{near}"
            )

    for modality in modalities:
        if modality.kind == "frames" and views.frames > modality.shape[0]:
            raise ConfigError(
                f"view-frames = {views.frames}: {modality.name!r} has {modality.shape[0]} stored "
                "frames a sample."
            )


def normalise(stored: Tensor, modality: ModalitySpec) -> Tensor:
    """Return ``(stored - mean) / std`` in float32; tokens as int64."""
    if modality.kind == "tokens":
        return stored.long()

    mean, std = (
        _along_channels(value, modality, stored) for value in (modality.mean, modality.std)
    )
    if stored.device.type != "cpu" or stored.numel() < HUGE:
        return torch.empty(stored.shape, device=stored.device).copy_(stored).sub_(mean).div_(std)

    # NumPy's memory comes in huge pages, torch's page by page; and one sample at a time stays in
    # the processor's cache
    view = torch.from_numpy(np.empty(stored.shape, np.float32))
    for sample, values in zip(view, stored, strict=True):
        sample.copy_(values).sub_(mean).div_(std)

    return view


def _along_channels(
    value: float | tuple[float, ...], modality: ModalitySpec, like: Tensor
) -> float | Tensor:
    if not isinstance(value, tuple):
        return value
    return (
        torch.tensor(value)
        .reshape(-1, *[1] * modality.axes_behind)
        .to(like.device, non_blocking=True)
    )


def random_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> Int[Tensor, "batch 4"]:
    """Draw crops as torchvision's RandomResizedCrop does, one for each sample.

    Parameters
    ----------
    count
        Number of samples.
    height
        Of the stored image, in pixels.
    width
        Of the stored image, in pixels.
    generator
        On the CPU.

    Returns
    -------
    Top, left, height and width in pixels, inside the image.
    """
    area = height * width * torch.empty(count, ATTEMPTS).uniform_(*CROP_SHARE, generator=generator)
    bounds = [math.log(bound) for bound in CROP_RATIO]
    ratio = torch.empty(count, ATTEMPTS).uniform_(*bounds, generator=generator).exp()
    heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    sizes = torch.stack([heights.gather(1, first), widths.gather(1, first)], dim=2).squeeze(1)
    low, high = CROP_RATIO
    central = torch.tensor([min(height, round(width / low)), min(width, round(height * high))])
    sizes = torch.where(fits.any(dim=1, keepdim=True), sizes, central)
    room = torch.tensor([height, width]) - sizes
    corner = (torch.rand(count, 2, generator=generator) * (room + 1)).floor().minimum(room)
    corner = torch.where(fits.any(dim=1, keepdim=True), corner, (room / 2).floor())

    return torch.cat([corner, sizes], dim=1).long()


def cut_out(
    images: Float[Tensor, "batch *planes height width"],
    boxes: Int[Tensor, "batch 4"],
    mirrored: Bool[Tensor, " batch"],
    size: tuple[int, int],
) -> Float[Tensor, "batch *planes view_height view_width"]:
    """Cut each sample's box out of all of its planes, scale it to one size with antialiasing, and
    mirror some.

    Parameters
    ----------
    images
        Any number of planes (channels, frames) a sample.
    boxes
        Top, left, height and width in pixels.
    mirrored
        Samples whose left becomes right.
    size
        Height and width of the result in pixels.

    Returns
    -------
    What ``torchvision.transforms.functional.resized_crop`` gives for one sample at a time.
    """
    top, left, height, width = boxes.unbind(1)
    rows = _scaling(top, height, images.shape[-2], size[0])
    columns = _scaling(left, width, images.shape[-1], size[1])
    columns = torch.where(mirrored.reshape(-1, 1, 1), columns.flip(1), columns)
    planes = images.flatten(1, -3)
    narrow = torch.einsum("nkhw,nxw->nkhx", planes, columns)
    view = torch.einsum("nkhx,nyh->nkyx", narrow, rows)

    return view.reshape(*images.shape[:-2], *size)


def _scaling(
    start: Int[Tensor, " batch"], length: Int[Tensor, " batch"], pixels: int, size: int
) -> Float[Tensor, "batch size pixels"]:
    """Return the weights of an antialiased linear scaling of [start, start + length) to ``size``
    pixels.

    Pixel p counts for pixel i of the result by a triangle around i's centre, as wide as i is on
    the original, at least one pixel to each side; weights outside of the box are 0 and the
    others of i add up to 1.
    """
    start, length = start.reshape(-1, 1, 1), length.reshape(-1, 1, 1)
    step = length / size
    centre = start + (torch.arange(size, device=start.device).reshape(1, -1, 1) + 0.5) * step
    pixel = torch.arange(pixels, device=start.device).reshape(1, 1, -1)
    weight = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel >= start) & (pixel < start + length))

    return weight / weight.sum(dim=2, keepdim=True)
