"""Encoders of images, of spectrograms seen as images, and of frames, whose features are averaged
over time.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.encoders.base import Encoder, group_norm, no_options, output_layer

LAYERS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}
"""Normalization -> constructor taking channels."""


class ImageEncoder(Encoder):
    """An encoder whose trunk reads [batch, channels, height, width]."""

    def read(
        self, x: Float[Tensor, "batch *time channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the trunk's output; that of frames is averaged over time."""
        images = x if x.ndim == 4 else x.flatten(0, 1)
        if self.large:  # the layout of its weights, see model_from_config.place
            images = images.contiguous(memory_format=torch.channels_last)

        features: Tensor = self.trunk(images)

        return features if x.ndim == 4 else features.unflatten(0, x.shape[:2]).mean(1)


class SmallCNN(ImageEncoder):
    """Three stride-2 convolutions (16, 32, 64 channels), each normalised, pooled to 2 x 2, linear
    to D.

    Parameters
    ----------
    modality
        What it reads.
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS.
    options
        None.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("spectrogram", "image", "frames")

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        no_options("small-cnn", options)
        channels, layers = modality.channels, list[nn.Module]()
        for width in (16, 32, 64):
            conv = nn.Conv2d(channels, width, 3, stride=2, padding=1)
            layers += [conv, LAYERS[normalization](width), nn.ReLU()]
            channels = width

        trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        super().__init__(trunk, nn.Linear(4 * channels, embedding_dim))


class ResNet18(ImageEncoder):
    """torchvision's ResNet-18 without its classifier, for any number of input channels.

    Parameters
    ----------
    modality
        What it reads.
    embedding_dim
        D, the size of z; a linear layer follows only where D is not ResNet-18's own 512, or the
        trunk is frozen.
    normalization
        One of NORMALIZATIONS.
    options
        Arguments of ``torchvision.models.ResNet`` that differ from ResNet-18's: ``layers``.
    frozen
        Whether the trunk will be frozen.
    """

    kinds: ClassVar[tuple[str, ...]] = ("spectrogram", "image", "frames")
    large: ClassVar[bool] = True

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        with needs("vision"):  # here: it takes a second, which every message on a device would pay
            from torchvision.models.resnet import BasicBlock, ResNet

        chosen = {"layers": [2, 2, 2, 2], **options}
        trunk = ResNet(BasicBlock, **chosen, norm_layer=LAYERS[normalization])
        if modality.channels != 3:
            trunk.conv1 = nn.Conv2d(modality.channels, 64, 7, stride=2, padding=3, bias=False)

        width, trunk.fc = trunk.fc.in_features, nn.Identity()
        super().__init__(trunk, output_layer(width, embedding_dim, frozen))

    @classmethod
    def trunk_state(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave the classifier out."""
        return {name: value for name, value in published.items() if not name.startswith("fc.")}


class DenseNet121(ImageEncoder):
    """torchvision's DenseNet-121 with its classifier of 1,000 outputs, and a linear layer where D
    is not 1,000.

    Parameters
    ----------
    modality
        What it reads.
    embedding_dim
        D, the size of z; a linear layer follows a frozen trunk in any case.
    normalization
        One of NORMALIZATIONS.
    options
        Arguments of ``torchvision.models.DenseNet`` that differ from DenseNet-121's:
        ``growth_rate``, ``block_config``, ``num_init_features``, ``num_classes``.
    frozen
        Whether the trunk will be frozen.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "frames")
    large: ClassVar[bool] = True

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        with needs("vision"):  # here: see ResNet18
            from torchvision.models.densenet import DenseNet

        own = {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64}
        trunk = DenseNet(**{**own, **options})
        first = trunk.features.conv0
        if modality.channels != 3:
            trunk.features.conv0 = nn.Conv2d(
                modality.channels, first.out_channels, 7, stride=2, padding=3, bias=False
            )

        if normalization != "batch":
            _normalise_by(LAYERS[normalization], trunk)

        super().__init__(trunk, output_layer(trunk.classifier.out_features, embedding_dim, frozen))


def _normalise_by(layer: Callable[[int], nn.Module], module: nn.Module) -> None:
    """Replace every batch norm, where an architecture does not let one choose."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, layer(child.num_features))
        else:
            _normalise_by(layer, child)
