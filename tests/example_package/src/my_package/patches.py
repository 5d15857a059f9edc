"""An encoder of images and spectrograms that looks at patches, each by itself, and averages what it
sees.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from fedcmi_flwr import Encoder
from fedcmi_flwr.data.schema import ModalitySpec

WIDTH = 32


class PatchEncoder(Encoder):
    """A linear layer on 4 x 4 patches, two more with GELU, the mean over patches, linear to D.

    Parameters
    ----------
    modality
        What it reads: its kind, its shape without the batch.
    embedding_dim
        D, the size of the embedding.
    normalization
        "batch" or "group", of encoders that normalise; this one does not.
    options
        Fields of the ``config.json`` beside pretrained weights; none without.
    frozen
        Whether the trunk will be frozen; the output layer must be able to learn then, as here in
        any case.
    """

    kinds: ClassVar[tuple[str, ...]] = ("spectrogram", "image")

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        patches = nn.Conv2d(modality.channels, WIDTH, kernel_size=4, stride=4)
        mixed = [nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1)]
        trunk = nn.Sequential(patches, *mixed, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(trunk, nn.Linear(WIDTH, embedding_dim))
