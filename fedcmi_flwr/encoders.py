"""Encoders E_m: one sample of a modality -> z_m in R^D, by the name a run configuration gives."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from fedcmi_flwr.schema import ModalitySpec

Normalization = Callable[[int], nn.Module]
GROUPS = 8
"""Of group norm; every width must be a multiple of it."""


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, width)


NORMALIZATIONS: dict[str, Normalization] = {"batch": nn.BatchNorm2d, "group": _group_norm}
"""Name -> constructor taking channels. Batch norm's statistics are those of a node's own, often lopsided, batches;
group norm (Wu and He, ECCV 2018) has none and is the one that holds under label skew (Hsieh et al., ICML 2020)."""


class SmallCNN(nn.Module):
    """Three stride-2 convolutions (16, 32, 64 channels), each normalised, pooled to 2 x 2, linear to D.

    Parameters
    ----------
    channels
        Channels of the input.
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS' values.
    """

    def __init__(self, channels: int, embedding_dim: int, normalization: Normalization) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (16, 32, 64):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), normalization(width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.output = nn.Linear(4 * channels, embedding_dim)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Return z of each sample."""
        z: Tensor = self.output(self.layers(x))
        return z


class ResNet18(nn.Module):
    """torchvision's ResNet-18 without its classifier, for any number of input channels.

    A linear layer follows only where D is not ResNet-18's own 512.

    Parameters
    ----------
    channels
        Channels of the input.
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS' values.
    """

    def __init__(self, channels: int, embedding_dim: int, normalization: Normalization) -> None:
        super().__init__()
        import torchvision  # here: it takes a second, which every message on a device would pay

        self.trunk = torchvision.models.resnet18(weights=None, norm_layer=normalization)
        if channels != 3:
            self.trunk.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        width = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity() if embedding_dim == width else nn.Linear(width, embedding_dim)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Return z of each sample."""
        z: Tensor = self.trunk(x)
        return z


ENCODERS: dict[str, tuple[Callable[[int, int, Normalization], nn.Module], tuple[str, ...]]] = {
    "small-cnn": (SmallCNN, ("spectrogram", "image")),
    "resnet18": (ResNet18, ("spectrogram", "image")),
}
"""Name -> (constructor taking channels, D and normalization, kinds of modality it can read)."""


def build_encoder(name: str, modality: ModalitySpec, embedding_dim: int, normalization: str = "batch") -> nn.Module:
    """Build the encoder of one modality.

    Parameters
    ----------
    name
        One of ENCODERS.
    modality
        What it reads; a sample of it must be [channels, height, width].
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS.

    Returns
    -------
    A module [batch, channels, height, width] -> [batch, D].

    Raises
    ------
    ValueError
        Unknown name or normalization, or an encoder that cannot read this kind of modality.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r} for modality {modality.name!r}: not one of {sorted(ENCODERS)}.")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r}: not one of {sorted(NORMALIZATIONS)}.")
    constructor, kinds = ENCODERS[name]
    if modality.kind not in kinds or len(modality.shape) != 3:
        raise ValueError(
            f"encoder {name!r} reads {' or '.join(kinds)} samples of shape [channels, height, width]; modality "
            f"{modality.name!r} is {modality.kind} of shape {list(modality.shape)}."
        )
    return constructor(modality.shape[0], embedding_dim, NORMALIZATIONS[normalization])
