"""Encoder of numeric series: sensors, telemetry, anything with channels and time."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.base import Encoder, group_norm, no_options

LAYERS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "group": group_norm}
"""Normalization -> constructor taking channels."""
POOLED = 4
"""Moments that the convolutions' output is averaged to."""


class CNN1d(Encoder):
    """Three stride-2 convolutions over time (32, 64, 128 channels, width 5), each normalised,
    pooled, linear to D.

    Parameters
    ----------
    modality
        What it reads, [channels, time] of any length.
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS.
    options
        None.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("series",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        no_options("cnn-1d", options)
        channels, layers = modality.channels, list[nn.Module]()
        for width in (32, 64, 128):
            layers += [
                nn.Conv1d(channels, width, 5, stride=2, padding=2),
                LAYERS[normalization](width),
                nn.ReLU(),
            ]
            channels = width

        trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(POOLED), nn.Flatten())
        super().__init__(trunk, nn.Linear(POOLED * channels, embedding_dim))
